//! An application of CarbonPHP's behind `ws serve --carbonphp`: the one that the bridge is tested
//! with, on a stand-in for CarbonPHP, or on the real one that `WS_CARBONPHP_ROOT` names.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use futures_util::SinkExt;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::callbacks::{Outside, installed, records};
use crate::fifo::{fifo_of, write};
use crate::support::*;

mod boot;
mod life;
mod messages;
mod pushes;

/// Makes the application in a directory.
const MAKE_SITE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../ws-ipc/shims/tests/carbonphp/make-site.php"
);

/// What stands in the command lines of the fork server and its children.
const BRIDGE: &str = "carbonphp-bridge.php";

/// What ends a record of CarbonPHP's writers, without the line that moves.
const DELIMITER: &str = "\nCarbonPHP\\Abstracts\\Pipe:";

/// Where no route is, for a URI of five bytes.
const NO_ROUTE: &str = "No route was matched in the Application for startApplication($uri = empty). \
    Please remember \n                    your sockets application is in cached state and must be \
    restart the socket server to see changes.";
const NO_OUTPUT: &str = "A route was matched but did not signal any output to stdout.";

/// A server of the application in its own directory; `None` if PHP is not installed.
fn site() -> Option<Setup> {
    site_in(Setup::new())
}

fn site_in(setup: Setup) -> Option<Setup> {
    make_site(setup.dir())?;
    Some(setup.arg("--carbonphp").arg("index.php").keeps(BRIDGE))
}

/// The same as a fork server, and behind a php-fpm that ends with the second value. What is not
/// installed is left out.
fn sites() -> impl Iterator<Item = (Setup, Option<Outside>)> {
    let forking = site().map(|setup| (setup, None));
    let behind_fpm = Outside::php_fpm().and_then(|fpm| {
        let setup = Setup::new();
        make_site(setup.dir())?;
        let setup = setup
            .set("carbonphp.index", "index.php")
            .set("app.backend", "fastcgi")
            .set("app.address", format!("unix:{}", fpm.address()).as_str());
        Some((setup, Some(fpm)))
    });
    forking.into_iter().chain(behind_fpm)
}

/// Makes the application in a directory; `None` if PHP is not installed.
pub(crate) fn make_site(dir: &Path) -> Option<()> {
    installed("php")?;
    php(&[MAKE_SITE, dir.to_str().unwrap()], dir);
    fs::create_dir_all(dir.join("tmp/sessions")).unwrap();
    Some(())
}

/// Says what is different in the application: what its `configuration.php` returns.
fn configure(dir: &Path, code: &str) {
    let new = dir.join("configuration.new");
    fs::write(&new, format!("<?php return {code};")).unwrap();
    fs::rename(&new, dir.join("configuration.php")).unwrap();
}

/// Has both callbacks do this first; `$uri` is empty for the validation.
fn before_callbacks(dir: &Path, code: &str) {
    let code = format!(
        "['before' => function () {{
            $first = function (string $uri): bool {{ {code} return false; }};
            $validate = CarbonPHP\\Programs\\WebSocket::$validateUserCallback;
            CarbonPHP\\Programs\\WebSocket::$validateUserCallback = function ($ip, $port) use ($first, $validate) {{
                $first('');
                return $validate($ip, $port);
            }};
            $start = CarbonPHP\\Programs\\WebSocket::$startApplicationCallback;
            CarbonPHP\\Programs\\WebSocket::$startApplicationCallback = function ($uri, $it) use ($first, $start) {{
                if (!$first($uri)) {{
                    $start($uri, $it);
                }}
            }};
        }}]"
    );
    configure(dir, &code);
}

/// Runs PHP as a web request would be, without the bridge.
fn php(args: &[&str], dir: &Path) -> Output {
    let output = Command::new("php").args(args).current_dir(dir).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "php {args:?}: {said}");
    output
}

/// What another process of the application does: a web request, a job.
fn elsewhere(server: &Server, code: &str) {
    let code = format!(
        "require 'vendor/autoload.php'; CarbonPHP\\CarbonPHP::$app_root = getcwd() . '/'; {code}"
    );
    php(&["-r", &code], server.dir());
}

/// Writes a record into the FIFOs whose names begin with this, as a web request does.
fn push(server: &Server, name: &str, record: &str) {
    let code = format!("CarbonPHP\\Abstracts\\Pipe::sendToFifoChannel('{name}', '{record}');");
    elsewhere(server, &code);
}

/// Connects as a browser with this cookie.
async fn enter(server: &Server, cookie: &str) -> Client {
    let entered = server.connect_with("/", &[("Cookie", cookie)]).await;
    entered.unwrap_or_else(|error| panic!("{cookie}: {error}"))
}

/// The status of a refusal.
async fn refused(server: &Server, headers: &[(&str, &str)]) -> u16 {
    match server.connect_with("/", headers).await {
        Err(Error::Http(response)) => response.status().as_u16(),
        other => panic!("not refused: {other:?}"),
    }
}

/// Makes a session of PHP's, as a web request would have.
fn add_session(server: &Server, id: &str, user: &str) {
    let path = server.state("sessions").join(format!("sess_{id}"));
    let length = user.len();
    fs::write(path, format!("id|s:{length}:\"{user}\";")).unwrap();
}

/// What the application can tell of a connection.
async fn whoami(client: &mut Client) -> Value {
    serde_json::from_str(&ask(client, "/whoami").await).unwrap()
}
