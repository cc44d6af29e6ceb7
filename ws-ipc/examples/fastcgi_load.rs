//! Measures the FastCGI client against a bare loop that does the same with ready-made bytes.
//!
//! `fastcgi_load SOCKET SCRIPT CONNECTIONS ROUNDS` asks a FastCGI server, such as php-fpm, at a Unix
//! socket for a script whose answer is short and the same each time. Rounds of 2,000 requests over
//! so many connections are run alternately by the client and by the loop; a line per round tells
//! requests per second, the median time of a request in microseconds, and the processor time of
//! this program per request.

#![expect(clippy::print_stdout, reason = "it prints what it measures")]

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use ws_ipc::fastcgi::{self, FastCgi, FastCgiConfig};
use ws_ipc::{Address, Environment};

const REQUESTS: usize = 2_000;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [socket, script, connections, rounds] = &args[..] else {
        return Err("usage: fastcgi_load SOCKET SCRIPT CONNECTIONS ROUNDS".into());
    };
    let (connections, rounds): (usize, usize) = (connections.parse()?, rounds.parse()?);
    let mut env = Environment::new();
    env.set("GATEWAY_INTERFACE", "CGI/1.1")?;
    env.set("REQUEST_METHOD", "POST")?;
    env.set("REQUEST_URI", "/")?;
    env.set("SCRIPT_FILENAME", script)?;
    env.set("REMOTE_ADDR", "127.0.0.1")?;
    env.set("HTTP_USER_AGENT", "Mozilla/5.0 (X11; Linux x86_64)")?;
    let config = FastCgiConfig {
        max_idle: connections,
        ..FastCgiConfig::default()
    };
    let server = FastCgi::new(Address::unix(socket), config);
    for _ in 0..rounds {
        let round = Round::begin();
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            tasks.spawn(ask(server.clone(), env.clone(), REQUESTS / connections));
        }
        round.end("client", tasks).await?;
        // Until the kept connections are closed, they hold the server's processes.
        tokio::time::sleep(2 * config.max_age).await;

        let round = Round::begin();
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            tasks.spawn(loop_bare(
                socket.clone(),
                env.clone(),
                REQUESTS / connections,
            ));
        }
        round.end("bare", tasks).await?;
    }
    Ok(())
}

const PAYLOAD: &[u8] = b"hello";

async fn ask(server: FastCgi, env: Environment, count: usize) -> Outcome<Vec<Duration>> {
    let payload = Bytes::from_static(PAYLOAD);
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        let limit = Duration::from_secs(10);
        server
            .call(&env, &payload, limit, 1 << 20, &mut |_| {})
            .await?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

async fn loop_bare(
    socket: impl AsRef<Path>,
    env: Environment,
    count: usize,
) -> Outcome<Vec<Duration>> {
    let mut request = Vec::new();
    fastcgi::encode_request(&mut request, 1, true, &env, PAYLOAD);
    let mut stream = UnixStream::connect(socket).await?;
    let mut buffer = vec![0; 32 * 1024];
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        stream.write_all(&request).await?;
        // A short response comes at once and ends with FCGI_END_REQUEST.
        let len = stream.read(&mut buffer).await?;
        if len < 16 || buffer[len - 15] != 3 {
            return Err("the response did not come at once".into());
        }
        times.push(begun.elapsed());
    }
    Ok(times)
}

/// Requests that are measured together.
struct Round {
    begun: Instant,
    cpu: Duration,
}

impl Round {
    fn begin() -> Self {
        Self {
            begun: Instant::now(),
            cpu: cpu_time(),
        }
    }

    async fn end(self, who: &str, mut tasks: JoinSet<Outcome<Vec<Duration>>>) -> Outcome<()> {
        let mut times = Vec::new();
        while let Some(done) = tasks.join_next().await {
            times.extend(done??);
        }
        let (elapsed, cpu) = (self.begun.elapsed(), cpu_time() - self.cpu);
        times.sort_unstable();
        let count = u32::try_from(times.len())?;
        println!(
            "{who:6} {:8.0} requests/s, p50 {:4} us, cpu {:5.1} us",
            f64::from(count) / elapsed.as_secs_f64(),
            times[times.len() / 2].as_micros(),
            1e6 * cpu.as_secs_f64() / f64::from(count),
        );
        Ok(())
    }
}

/// The processor time that this program has used.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
