//! One message, one process.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ws_ipc::Failure;
use ws_ipc::exec::{self, AnswerChannel};

use crate::support::{command, eventually, processes_with, run, script, spawners};

const BOTH: [AnswerChannel; 2] = [AnswerChannel::Pipe, AnswerChannel::Socketpair];

#[tokio::test]
async fn output_of_a_program_is_the_answer() {
    let spawners = spawners();
    for answer in BOTH {
        let mut exec = script("cat; echo done");
        exec.payload = "hello ".into();
        exec.answer = answer;
        assert_eq!(run(&spawners, exec).await.unwrap(), "hello done\n");
    }
    spawners.shutdown().await;
}

#[tokio::test]
async fn payload_and_answer_larger_than_any_buffer_pass_each_other() {
    let spawners = spawners();
    let payload: Vec<u8> = (0..3_000_000_u32)
        .flat_map(|n| n.to_le_bytes())
        .take(3_000_000)
        .collect();
    for answer in BOTH {
        let mut exec = command(&["cat"]);
        exec.payload = Bytes::from(payload.clone());
        exec.answer = answer;
        exec.max_output = payload.len();
        let echoed = exec::run(&spawners, exec, &mut |_| {}).await.unwrap();
        assert!(echoed == payload);
    }
    spawners.shutdown().await;
}

#[tokio::test]
async fn program_need_not_read_its_payload() {
    let spawners = spawners();
    for answer in BOTH {
        let mut exec = script("echo enough");
        exec.payload = Bytes::from(vec![b'x'; 1_000_000]);
        exec.answer = answer;
        assert_eq!(run(&spawners, exec).await.unwrap(), "enough\n");
    }
    spawners.shutdown().await;
}

/// A run that is given up while its program starts must not feed it the beginning of a message.
#[tokio::test]
async fn run_given_up_at_its_start_sees_its_whole_payload_or_nothing() {
    let spawners = spawners();
    let dir = tempfile::tempdir().unwrap();
    let signal = |signal| {
        for pid in spawners.pids() {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
        }
    };
    let sizes = [1, 64 * 1024];
    for size in sizes {
        let seen = dir.path().join(size.to_string());
        let mut exec = script(&format!("wc -c > {0}.new; mv {0}.new {0}", seen.display()));
        exec.payload = Bytes::from(vec![b'x'; size]);
        exec.timeout = Duration::from_millis(50);
        signal(nix::sys::signal::Signal::SIGSTOP);
        assert_eq!(run(&spawners, exec).await, Err(Failure::TimedOut));
        signal(nix::sys::signal::Signal::SIGCONT);
    }
    // Whatever became of them is over then.
    spawners.shutdown().await;
    for size in sizes {
        if let Ok(count) = std::fs::read_to_string(dir.path().join(size.to_string())) {
            assert_eq!(count.trim(), size.to_string());
        }
    }
}

#[tokio::test]
async fn t49_end_of_the_program_decides_whether_the_answer_counts() {
    let spawners = spawners();
    for answer in BOTH {
        for (text, failure) in [
            ("echo alice; exit 3", Failure::Exited(3)),
            ("echo alice; exit 1", Failure::Exited(1)),
            ("echo alice; kill -KILL $$", Failure::Signaled(9)),
        ] {
            let mut exec = script(text);
            exec.answer = answer;
            assert_eq!(run(&spawners, exec).await, Err(failure));
        }
    }
    spawners.shutdown().await;
}

#[tokio::test]
async fn t49_program_that_never_or_slowly_writes_times_out() {
    let spawners = spawners();
    for text in ["exec sleep 600", "while :; do echo -n a; sleep 0.05; done"] {
        let mut exec = script(text);
        exec.answer = AnswerChannel::Socketpair;
        exec.timeout = Duration::from_millis(300);
        assert_eq!(run(&spawners, exec).await, Err(Failure::TimedOut));
    }
    spawners.shutdown().await;
}

#[tokio::test]
async fn t49_descendant_that_holds_the_output_is_killed_after_100_ms() {
    let spawners = spawners();
    let mark = format!("HOLDER={}", std::process::id());
    for answer in BOTH {
        for text in ["sleep 600 & echo alice", "setsid sleep 600 & echo alice"] {
            let mut exec = script(text);
            exec.env
                .push(("HOLDER".into(), std::process::id().to_string().into()));
            exec.answer = answer;
            let begun = Instant::now();
            assert_eq!(run(&spawners, exec).await.unwrap(), "alice\n");
            assert!(begun.elapsed() >= Duration::from_millis(100));
            assert!(begun.elapsed() < Duration::from_secs(2));
            eventually("it is dead", || processes_with(&mark).is_empty()).await;
        }
    }
    spawners.shutdown().await;
}

#[tokio::test]
async fn t61_sleeper_is_terminated_at_its_deadline() {
    let spawners = spawners();
    let mut exec = command(&["sleep", "1000000000"]);
    exec.timeout = Duration::from_millis(200);
    let begun = Instant::now();
    assert_eq!(run(&spawners, exec).await, Err(Failure::TimedOut));
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(200) && took < Duration::from_millis(1200),
        "{took:?}"
    );
    spawners.shutdown().await;
}

#[tokio::test]
async fn t61_program_that_ignores_sigterm_is_killed_2_s_later() {
    let spawners = spawners();
    let mark = format!("STUBBORN={}", std::process::id());
    let mut exec = script("trap '' TERM; while :; do sleep 1; done");
    exec.env
        .push(("STUBBORN".into(), std::process::id().to_string().into()));
    exec.timeout = Duration::from_millis(200);
    let begun = Instant::now();
    assert_eq!(run(&spawners, exec).await, Err(Failure::TimedOut));
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(2200) && took < Duration::from_secs(10),
        "{took:?}"
    );
    eventually("it is dead", || processes_with(&mark).is_empty()).await;
    spawners.shutdown().await;
}

/// A signal that is pending while a program is stopped is as good as none: it was killed only when
/// its time to end in good order was over.
#[tokio::test]
async fn t61_stopped_program_goes_on_to_end_in_good_order() {
    let spawners = spawners();
    let mut exec = script("trap 'echo heard >&2; exit' TERM; kill -STOP $$; sleep 600");
    exec.timeout = Duration::from_millis(200);
    let mut lines = Vec::new();
    let answer = exec::run(&spawners, exec, &mut |line| lines.push(line.to_owned())).await;
    assert_eq!(answer, Err(Failure::TimedOut));
    assert_eq!(lines, ["heard"]);
    spawners.shutdown().await;
}

#[tokio::test]
async fn t61_closed_output_is_no_answer_while_the_program_lives() {
    let spawners = spawners();
    let mut exec = script("echo early; exec >&- 2>&-; exec sleep 600");
    exec.timeout = Duration::from_millis(300);
    assert_eq!(run(&spawners, exec).await, Err(Failure::TimedOut));
    assert_eq!(
        run(&spawners, script("echo early; exec >&- 2>&-; sleep 0.05"))
            .await
            .unwrap(),
        "early\n"
    );
    spawners.shutdown().await;
}

#[tokio::test]
async fn t57_nothing_of_a_timed_out_program_remains() {
    let spawners = spawners();
    let mark = format!("ESCAPED={}", std::process::id());
    let mut exec = script("setsid sh -c 'setsid sleep 600 & exec sleep 600' & exec sleep 600");
    exec.env
        .push(("ESCAPED".into(), std::process::id().to_string().into()));
    exec.timeout = Duration::from_millis(300);
    assert_eq!(run(&spawners, exec).await, Err(Failure::TimedOut));
    eventually("nobody left", || processes_with(&mark).is_empty()).await;
    spawners.shutdown().await;
}

#[tokio::test]
async fn t60_flood_is_killed_at_the_limit() {
    let spawners = spawners();
    for answer in BOTH {
        let mut exec = command(&["yes"]);
        exec.answer = answer;
        let begun = Instant::now();
        let flooded = run(&spawners, exec).await;
        assert_eq!(flooded, Err(Failure::OutputTooLong { max: 1 << 20 }));
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
    let mut exec = script("head -c 1000 /dev/zero | tr '\\0' x");
    exec.max_output = 1000;
    assert_eq!(run(&spawners, exec.clone()).await.unwrap().len(), 1000);
    exec.max_output = 999;
    assert_eq!(
        run(&spawners, exec).await,
        Err(Failure::OutputTooLong { max: 999 })
    );
    spawners.shutdown().await;
}

#[tokio::test]
async fn t60_standard_error_is_handed_out_by_lines_and_limited() {
    let spawners = spawners();
    let mut lines = Vec::new();
    let exec = script("echo one >&2; echo answer; printf two >&2");
    let answer = exec::run(&spawners, exec, &mut |line| lines.push(line.to_owned())).await;
    assert_eq!(answer.unwrap(), b"answer\n");
    assert_eq!(lines, ["one", "two"]);

    let mut size = 0;
    let exec = script("yes | head -c 3000000 >&2; exit 5");
    let failure = exec::run(&spawners, exec, &mut |line| size += line.len()).await;
    assert_eq!(failure, Err(Failure::Exited(5)));
    assert!(size < 64 * 1024, "{size}");
    spawners.shutdown().await;
}

#[tokio::test]
async fn dropped_run_kills_its_program() {
    let spawners = spawners();
    let mark = format!("DROPPED={}", std::process::id());
    let mut exec = script("sleep 600 & exec sleep 600");
    exec.env
        .push(("DROPPED".into(), std::process::id().to_string().into()));
    let run = {
        let spawners = spawners.clone();
        tokio::spawn(async move { run(&spawners, exec).await })
    };
    eventually("both run", || processes_with(&mark).len() == 2).await;
    run.abort();
    assert!(run.await.unwrap_err().is_cancelled());
    eventually("both are dead", || processes_with(&mark).is_empty()).await;
    spawners.shutdown().await;
}
