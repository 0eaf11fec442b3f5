//! What a crash leaves, and what was asked to fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::SimulatedDisk;
use crate::disk::Disk;

#[test]
fn what_was_synced_survives_every_crash() {
    for seed in 0..100 {
        let disk = SimulatedDisk::new();
        let file = disk.create("a").unwrap();
        file.write_at(&[1; 2000], 0).unwrap();
        file.sync().unwrap();
        disk.sync_dir("").unwrap();
        file.write_at(&[2; 1000], 2000).unwrap();
        disk.crash(seed);
        assert!(file.len().is_err(), "handles die with the power");
        let bytes = disk.contents("a").unwrap();
        assert_eq!(bytes[..2000], [1; 2000]);
    }
}

#[test]
fn crashes_tear_writes_and_lose_names() {
    let mut torn = 0;
    let mut lost = 0;
    for seed in 0..100 {
        let disk = SimulatedDisk::new();
        let file = disk.create("kept").unwrap();
        file.set_len(2048).unwrap();
        file.sync().unwrap();
        disk.sync_dir("").unwrap();
        file.write_at(&[7; 2048], 0).unwrap();
        disk.create("unsynced").unwrap();
        disk.crash(seed);
        let sevens = disk.contents("kept").unwrap().iter().filter(|b| **b == 7).count();
        torn += usize::from(sevens != 0 && sevens != 2048);
        lost += usize::from(disk.contents("unsynced").is_none());
    }
    assert!(torn > 5 && torn < 95, "{torn}");
    assert!(lost > 5 && lost < 95, "{lost}");
}

#[test]
fn faults_come_when_asked_for() {
    let disk = SimulatedDisk::new();
    let file = disk.create("a").unwrap();
    disk.fail_after(2);
    file.write_at(b"x", 0).unwrap();
    assert!(file.sync().is_err());
    file.sync().unwrap();
    disk.power_off_after(1);
    assert!(file.sync().is_err());
    assert!(disk.open("a").is_err());
    disk.crash(0);
}

#[test]
fn directories_move_with_their_files() {
    let disk = SimulatedDisk::new();
    disk.create_dir("index/sub").unwrap();
    disk.create_dir("trash").unwrap();
    disk.create("index/sub/a").unwrap();
    disk.rename("index", "trash/index").unwrap();
    assert_eq!(disk.paths(), ["trash/index/sub/a"]);
    assert_eq!(disk.list("trash/index").unwrap(), ["sub"]);
    disk.remove("trash/index").unwrap();
    assert!(disk.paths().is_empty());
}
