//! Answers that come bit by bit, for as long as the server has something to tell.

use http_body_util::BodyExt;

use super::{Ask, CallError, Caller, read_answer, request, runtime};
use crate::args::Client;
use crate::failure::Failure;

/// Asks the running server, and hands on its answer as it comes, until it ends.
pub(crate) fn stream(
    client: &Client,
    path: &str,
    mut each: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut caller = Caller::new(client)?;
    runtime()?.block_on(async {
        let followed = follow(&mut caller, path, &mut each).await;
        followed.map_err(|error| caller.failure(error))?
    })
}

/// The outer error is one of the call, the inner one of `each`.
async fn follow(
    caller: &mut Caller,
    path: &str,
    each: &mut impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<Result<(), Failure>, CallError> {
    let mut wire = caller.wire().await?;
    let request = request(
        &Ask::get(path),
        caller.address.as_ref(),
        caller.token.as_ref(),
    )?;
    let mut response = wire.sender.send_request(request).await?;
    if !response.status().is_success() {
        return read_answer(response).await.map(|_| Ok(()));
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
