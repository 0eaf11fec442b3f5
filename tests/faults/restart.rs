//! A broker that is killed and started again while a client is connected.

use std::time::Duration;

use crate::process::Launch;
use crate::{connect, start};

/// Well below the time after which a silent connection counts as lost, which is 10 s.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_client_learns_at_once_that_the_broker_was_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let launch = Launch::new(&dir.path().join("data")).unwrap();
    let mut broker = start(&launch);
    let client = connect(&launch).await;
    for seq in (1..=9).step_by(3) {
        assert_eq!(client.publish("s.a", "before").await.unwrap().seq, seq);
        assert!(broker.kill().unwrap());
        broker = start(&launch);
        // Its connection was the killed broker's; the new one says so (RFC 9000, section 10.3).
        let ack = tokio::time::timeout(SOON, client.publish("s.a", "after")).await;
        assert_eq!(ack.expect("it does not wait for the idle timeout").unwrap().seq, seq + 1);
        assert_eq!(client.publish("s.a", "again").await.unwrap().seq, seq + 2);
    }
}
