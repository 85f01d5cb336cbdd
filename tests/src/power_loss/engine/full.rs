//! A full disk: a start is refused and says what to do; when there is room the engine
//! goes on by itself, with everything that it acknowledged.

use std::sync::Arc;

use heyday_durable::embedded::Durability;
use heyday_durable::engine::{Engine as _, EngineError, ExecutionStatus};

use super::clients::{Clients, Progress, reference};
use super::world::World;
use super::{LIMIT, open};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_reported_and_the_engine_recovers_when_there_is_room() {
    let world = World::new();
    let power = world.disk.power();
    let engine = open(&world, power, Durability::Full).await.unwrap();
    let clients = Clients {
        engine: Arc::new(engine),
        world: Arc::clone(&world),
        progress: Arc::new(Progress::default()),
        power,
        input: 0,
    };
    let engine = &clients.engine;
    world.disk.full(200_000);
    let mut started = Vec::new();
    let refused = loop {
        let workflow_id = format!("run-{}", started.len());
        match engine.start(clients.request(&workflow_id, false)).await {
            Ok(_) => started.push(workflow_id),
            Err(error) => break error,
        }
    };
    assert!(!started.is_empty());
    let EngineError::Unavailable { message, .. } = &refused else {
        panic!("{refused:?}");
    };
    assert!(message.contains("disk is full"), "{message}");
    assert!(message.contains("free"), "it says what to do: {message}");
    // What was acknowledged can be read while the disk is full.
    engine.describe(&reference("run-0", None)).await.unwrap();

    world.disk.lift_full();
    for workflow_id in started {
        let result = engine.result(&reference(&workflow_id, None), LIMIT).await;
        let result = result.unwrap().expect("it ends");
        assert_eq!(result.status, ExecutionStatus::Completed);
    }
    // The runs above could end only by commits, so starts are taken again.
    let again = clients.request("again", false);
    engine.start(again).await.unwrap();
    let result = engine.result(&reference("again", None), LIMIT).await;
    assert_eq!(result.unwrap().unwrap().status, ExecutionStatus::Completed);
    assert_eq!(world.wrong(), Vec::<String>::new());
}
