//! Answers that come bit by bit, for as long as the server has something to tell.

use anyhow::Context;
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::{ExchangeError, candidates, connect, request};
use crate::args::Client;
use crate::config::Surroundings;
use crate::failure::Failure;

/// Asks the running server, and hands on its answer as it comes, until it ends.
pub(crate) fn stream(
    client: &Client,
    path: &str,
    mut each: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let candidates = candidates(client, &Surroundings::of_process()?)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let (stream, socket) = connect(&candidates).await?;
        follow(stream, path, &mut each)
            .await
            .map_err(|failure| failure.at(&socket))?
    })
}

/// The outer error is one of the exchange, the inner one of `each`.
async fn follow(
    stream: UnixStream,
    path: &str,
    each: &mut impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<Result<(), Failure>, ExchangeError> {
    let request = request(Method::GET, path, None)
        .map_err(|_| ExchangeError::Broken(anyhow::anyhow!("cannot build the request")))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the runtime.
    tokio::spawn(connection);
    let mut response = sender.send_request(request).await?;
    let status = response.status();
    if status != StatusCode::OK {
        let told = response.into_body().collect().await?.to_bytes();
        let told = serde_json::from_slice::<serde_json::Value>(&told).ok();
        let told = told.and_then(|told| Some(told.get("error")?.as_str()?.to_owned()));
        let told = told.unwrap_or_else(|| status.to_string());
        let told = crate::output::printable(&told);
        return Err(ExchangeError::Refused(status, told));
    }
    while let Some(frame) = response.frame().await {
        if let Ok(data) = frame?.into_data()
            && let Err(failure) = each(&data)
        {
            return Ok(Err(failure));
        }
    }
    Ok(Ok(()))
}
