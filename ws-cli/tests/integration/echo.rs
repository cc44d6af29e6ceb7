//! The echo: the server without processes.

use tokio_tungstenite::tungstenite::Message;

use crate::support::*;

#[tokio::test]
async fn text_and_binary_come_back_as_they_went() {
    let server = Setup::new().arg("--echo").start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "ping").await, "ping");
    assert_eq!(ask(&mut client, "").await, "");
    let large = "ü".repeat(300_000);
    assert_eq!(ask(&mut client, &large).await, large);
    futures_util::SinkExt::send(&mut client, Message::binary(vec![0, 255, 1]))
        .await
        .unwrap();
    assert_eq!(next(&mut client).await, Message::binary(vec![0, 255, 1]));
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn close_frame_without_a_code_is_recorded_as_1005() {
    let server = Setup::new().arg("--echo").start();
    bye(server.connect().await).await;
    let log = server.finish();
    assert!(log.contains(r#""cause":"peer","close.code":1005"#), "{log}");
}
