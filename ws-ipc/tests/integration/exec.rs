//! One message, one process.

use crate::support::{run, script, spawners};

#[tokio::test]
async fn output_of_a_program_is_the_answer() {
    let spawners = spawners();
    let mut exec = script("cat; echo done");
    exec.payload = "hello ".into();
    assert_eq!(run(&spawners, exec).await.unwrap(), "hello done\n");
    spawners.shutdown().await;
}
