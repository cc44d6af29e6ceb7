//! Who a visitor is, told without a process: by a signed token or by the session of another
//! application.

mod lookup;
mod php;
mod tokens;

use serde_json::Value;
use tokio_tungstenite::tungstenite::Error;

use crate::support::*;

/// An application that says for whom it runs, and in which session.
const WHO: &str = r#"echo "$WS_USER_ID""#;

/// Who the server takes a visitor with these headers for; else the status of the refusal.
async fn who(server: &Server, headers: &[(&str, &str)]) -> Result<String, u16> {
    match server.connect_with("/", headers).await {
        Ok(mut client) => {
            let user = ask(&mut client, "who?").await;
            bye(client).await;
            Ok(user)
        }
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("no answer of HTTP: {error}"),
    }
}

/// A visitor with this cookie.
async fn who_with_cookie(server: &Server, cookie: &str) -> Result<String, u16> {
    who(server, &[("Cookie", cookie)]).await
}

/// The session that the only connection is in.
fn session(server: &Server) -> Value {
    server.connections()[0]["session"].clone()
}
