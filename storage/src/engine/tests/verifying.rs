//! Whatever byte is damaged, `verify` says so or nothing is lost; and it finds nothing where nothing is.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::operations::{Run, open};
use crate::disk::{Disk, SimulatedDisk};
use crate::log::Log;
use crate::manifest::{self, Manifest};
use crate::verify::{Finding, Harm, quarantine, verify};

fn a_log(seed: u64) -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    let mut run = Run::new(seed, false);
    let mut engine = open(&disk, seed);
    for _ in 0..1_200 {
        run.step(&mut engine);
        if run.draw.chance.one_in(5) {
            run.commit(&mut engine);
            engine.run_background();
            while engine.poll().unwrap().is_some() {}
        }
    }
    run.commit(&mut engine);
    engine.run_background();
    disk
}

fn findings(disk: &SimulatedDisk) -> Vec<Finding> {
    let mut found = Vec::new();
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    verify(&disk, &mut |finding| found.push(finding)).unwrap();
    found
}

#[test]
fn a_sound_directory_has_no_findings() {
    for seed in 0..10 {
        let disk = a_log(seed);
        let before = disk.counts().changes();
        assert_eq!(findings(&disk), []);
        assert_eq!(disk.counts().changes(), before, "nothing is changed");
        let below: Arc<dyn Disk> = Arc::new(disk.clone());
        let (checked, _) = verify(&below, &mut |_| {}).unwrap();
        assert!(checked.checkpoints == 2 && checked.records > 0, "{checked:?}");
        assert!(checked.streams.iter().all(|s| s.readable == s.messages), "{checked:?}");
        disk.crash(seed);
        assert_eq!(findings(&disk), []);
    }
}

#[test]
fn damage_anywhere_is_named() {
    let disk = a_log(3);
    let mut named = 0;
    let generations = Manifest::generations(&disk).unwrap();
    let manifests = generations.iter().map(|g| Manifest::read(&disk, *g).unwrap());
    let mut listed: BTreeSet<String> = generations.iter().map(|g| manifest::path(*g)).collect();
    listed.extend(manifests.flat_map(|manifest| manifest.files().collect::<Vec<_>>()));
    for path in listed {
        let good = disk.contents(&path).unwrap();
        for at in (0..good.len()).step_by(good.len() / 7 + 1) {
            let mut bad = good.clone();
            bad[at] ^= 16;
            disk.damage(&path, bad);
            let found = findings(&disk);
            assert!(!found.is_empty(), "{path} byte {at}");
            assert!(
                found.iter().any(|f| f.to_string().contains(path.as_str())),
                "{path}: {found:?}"
            );
            named += 1;
        }
        disk.damage(&path, good);
    }
    assert!(named > 30);
}

/// Damage in the journal after the last checkpoint is found where it matters.
#[test]
fn damage_in_the_journal_is_named() {
    let disk = SimulatedDisk::new();
    let mut engine = open(&disk, 1);
    for n in 0..9_u8 {
        engine.put(&[n], &[n; 30]);
        engine.commit();
        engine.run_background();
    }
    drop(engine);
    let path = "journal/0000000000000001.jnl";
    let mut bytes = disk.contents(path).unwrap();
    let at = bytes.windows(30).position(|window| window == [5; 30]).unwrap();
    bytes[at] ^= 1;
    disk.damage(path, bytes);
    let found = findings(&disk);
    assert!(matches!(&found[..], [Finding { groups: Some((6, 6)), .. }]), "{found:?}");
}

/// Checks, and sets aside what is found.
fn repair(disk: &SimulatedDisk) -> bool {
    let mut found = Vec::new();
    let below: Arc<dyn Disk> = Arc::new(disk.clone());
    let (_, engine) = verify(&below, &mut |finding| found.push(finding)).unwrap();
    quarantine(disk, &found, engine.is_some()).unwrap();
    engine.is_some()
}

/// A directory of a later version keeps what says so, however often repair is asked for.
#[test]
fn repair_leaves_a_newer_format_where_it_is() {
    let disk = a_log(4);
    let newer = b"claudebus data directory, format 7\n".to_vec();
    disk.damage("FORMAT", newer.clone());
    for _ in 0..2 {
        assert!(!repair(&disk), "it must not start");
        assert_eq!(disk.contents("FORMAT"), Some(newer.clone()));
    }
    // Nor is it moved for anything else that is wrong with it.
    let finding = Finding {
        file: "FORMAT".to_owned(),
        copy: None,
        bytes: None,
        lost: None,
        groups: None,
        what: String::new(),
        harm: Harm::Nothing,
    };
    quarantine(&disk, &[finding], true).unwrap();
    assert_eq!(disk.contents("FORMAT"), Some(newer));
}

/// What was set aside before stays there, files and directories alike.
#[test]
fn setting_aside_replaces_nothing() {
    let disk = a_log(5);
    for n in 1..4_u8 {
        disk.damage("FORMAT", vec![n]);
        assert!(repair(&disk));
        assert!(disk.contents("FORMAT").is_none());
        disk.create_dir("index").unwrap();
        disk.create("index/db").unwrap().write_at(&[n], 0).unwrap();
        let finding = Finding {
            file: "index".to_owned(),
            copy: None,
            bytes: None,
            lost: None,
            groups: None,
            what: String::new(),
            harm: Harm::Search,
        };
        quarantine(&disk, &[finding], true).unwrap();
        // The next start writes it.
        disk.create("FORMAT").unwrap();
    }
    let paths = disk.paths();
    let kept = |name: &str| {
        let paths = paths.iter().filter(|path| path.starts_with(name) && !path.ends_with(".txt"));
        let mut kept: Vec<_> = paths.map(|path| disk.contents(path).unwrap()).collect();
        kept.sort();
        kept
    };
    assert_eq!(kept("lost+found/FORMAT"), [[1], [2], [3]]);
    assert_eq!(kept("lost+found/index"), [[1], [2], [3]]);
}
