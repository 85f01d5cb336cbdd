//! What workers announce to any of several servers.

use std::time::Duration;

use uuid::Uuid;

use super::Empty;
use super::backends::both;

#[tokio::test(flavor = "multi_thread")]
async fn servers_share_what_workers_announce() {
    let Some(empty) = Empty::shared() else {
        return;
    };
    let empty = empty.migrated().await;
    let hour = Duration::from_secs(3_600);
    let [first, second, third] = [(); 3].map(|()| Uuid::now_v7());
    both(&empty.location(), async |one, other| {
        assert_eq!(one.workers(hour).await.unwrap(), []);
        one.hear_worker(&first, "1", hour, 2).await.unwrap();
        let [begun] = &other.workers(hour).await.unwrap()[..] else {
            panic!("not one worker");
        };
        assert_eq!(begun.since, begun.heard_at);
        // Heard again, at another server, it is the same.
        other.hear_worker(&first, "2", hour, 2).await.unwrap();
        let [again] = &one.workers(hour).await.unwrap()[..] else {
            panic!("not one worker");
        };
        assert_eq!(
            (again.since, again.announcement.as_str()),
            (begun.since, "2")
        );
        assert!(again.heard_at >= begun.heard_at, "{again:?}");
        // More than there may be are left out.
        one.hear_worker(&second, "3", hour, 2).await.unwrap();
        one.hear_worker(&third, "4", hour, 2).await.unwrap();
        let listed = other.workers(hour).await.unwrap();
        let listed: Vec<_> = listed.iter().map(|it| it.announcement.as_str()).collect();
        assert_eq!(listed, ["2", "3"]);
        // Who was silent for so long is forgotten, and begins anew.
        let none = Duration::ZERO;
        other.hear_worker(&second, "5", none, 2).await.unwrap();
        let [left] = &one.workers(hour).await.unwrap()[..] else {
            panic!("not one worker");
        };
        assert_eq!(
            (left.since, left.announcement.as_str()),
            (left.heard_at, "5")
        );
    })
    .await;
}
