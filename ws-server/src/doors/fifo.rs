//! FIFOs: a shell's way to push.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tracing::{debug, warn};
use ws_ipc::{Fifo, FifoDirectory, Framing, Record, RecordDecoder};
use ws_proto::{EncodedMessage, MessageKind};
use ws_session::{Target, UserId};

use crate::application::Application;
use crate::config::FifoFraming;
use crate::connection::Connection;
use crate::core::answer::kind_of;
use crate::core::complaints::Complaints;
use crate::core::question::{Occasion, Question, Source};
use crate::core::rate::{Bucket, Rate};
use crate::counters::{Counters, RecordRefusal};
use crate::error::Chain;
use crate::shard::Shard;
use crate::shared::Shared;

/// Records written here are sent to every connection.
pub(crate) const GLOBAL_FIFO: &str = "global_pipe.fifo";

/// Bytes taken from a FIFO at a time: a pipe's default capacity.
const READ_SIZE: usize = 64 * 1024;
/// Bytes taken from a connection's FIFO at a time: there are thousands of these.
const SMALL_READ_SIZE: usize = 4096;
/// Records of the global FIFO that are sent together, at most.
const MAX_BURST: usize = 64;
/// A record whose end has not come by then is dropped.
const PARTIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How soon a FIFO that vanished is tried again if it cannot be made anew.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);

/// Sends every record of the global FIFO to everybody, in their order. Those that were read
/// together are sent together.
pub(crate) async fn serve_global(server: Arc<Shared>, fifo: Fifo) {
    let counters = &server.hub.counters;
    let mut reader = Reader::new(fifo, &server, READ_SIZE);
    while let Some(record) = poll_fn(|cx| reader.poll_next(cx, counters)).await {
        let mut messages = Vec::new();
        messages.extend(global_message(&record, &server));
        while messages.len() < MAX_BURST
            && let Some(record) = reader.next_read(counters)
        {
            messages.extend(global_message(&record, &server));
        }
        if messages.is_empty() {
            continue;
        }
        let count = messages.len();
        // A server that goes down accepts no pushes, and reads no more records.
        let Ok(receipt) = server.hub.push(&Target::All, messages).await else {
            return;
        };
        debug!(fifo = GLOBAL_FIFO, count, ?receipt, "records sent");
    }
}

fn global_message(record: &[u8], server: &Shared) -> Option<EncodedMessage> {
    if std::str::from_utf8(record).is_ok() {
        let ledger = &server.hub.counters.ledger;
        return Some(ledger.message(MessageKind::Text, record));
    }
    refuse(server, RecordRefusal::NotUtf8, &GLOBAL_FIFO, record.len());
    None
}

/// Counts a record that is not carried out, and says so unless too many are.
fn refuse(server: &Shared, refusal: RecordRefusal, fifo: &dyn Display, size: usize) {
    server.hub.counters.record_refused(refusal);
    let untold = {
        let complaints = &server.fifo_watch.complaints;
        let mut complaints = complaints.lock().unwrap_or_else(PoisonError::into_inner);
        complaints.note(std::time::Instant::now())
    };
    if let Some(untold) = untold {
        let untold = (untold > 0).then_some(untold);
        warn!(
            %fifo, reason = refusal.as_str(), size, untold,
            "a FIFO's record was not carried out"
        );
    }
}

/// Runs every record of a user's FIFO, once for each of the user's connections, as that user.
///
/// A record is run when there is room for it at every connection, so that the slowest of them holds
/// up the FIFO, as it would hold up one who asks by the control socket.
pub(crate) async fn serve_user(shard: Rc<Shard>, user: UserId, fifo: Fifo) {
    let server = Arc::clone(&shard.server);
    let (hub, counters) = (&server.hub, &server.hub.counters);
    let mut reader = Reader::new(fifo, &server, SMALL_READ_SIZE);
    loop {
        let next = poll_fn(|cx| match hub.user_fifos.is_left(&user, cx) {
            true => Poll::Ready(None),
            false => reader.poll_next(cx, counters),
        });
        let Some(record) = next.await else {
            // Nobody is there any more, or the server goes down.
            let is_draining = *server.draining.borrow();
            let ends = |reader: Reader| reader.give_up(counters);
            match hub.user_fifos.remove(&user, is_draining, reader, ends) {
                None => return,
                Some(kept) => reader = kept,
            }
            continue;
        };
        if !is_runnable(&shard, &record) {
            reader.refuse(RecordRefusal::NotUri, record.len());
            continue;
        }
        let target = Target::User(user.clone());
        let run = hub.run_unbounded(&target, record, Source::Fifo).await;
        if !run.is_ok_and(|receipt| receipt.queued > 0) {
            counters.record_refused(RecordRefusal::Ended);
        }
    }
}

/// Whether the application can be asked for it.
fn is_runnable(shard: &Shard, record: &[u8]) -> bool {
    // The program of a connection reads whatever line it is.
    let current = shard.server.current();
    let application = current.application.as_ref();
    application.is_some_and(Application::is_stream) || shard.server.runs(record)
}

/// Runs every record of a connection's FIFO through the application, as that connection's user.
pub(crate) fn serve_connection(
    shard: Rc<Shard>,
    connection: Rc<Connection>,
    fifo: Fifo,
) -> impl Future<Output = ()> {
    // Made out here, for an async function has room for its arguments besides what becomes of them.
    let mut reader = Reader::new(fifo, &shard.server, SMALL_READ_SIZE);
    async move {
        let counters = &shard.server.hub.counters;
        // Nothing here is a future that would be kept while the FIFO is idle: there are thousands.
        loop {
            let next = poll_fn(|cx| match connection.poll_ended(cx) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => reader.poll_next(cx, counters),
            });
            let Some(record) = next.await else {
                break;
            };
            if !is_runnable(&shard, &record) {
                reader.refuse(RecordRefusal::NotUri, record.len());
                continue;
            }
            let question = Question {
                event: Occasion::Message,
                source: Source::Fifo,
                kind: kind_of(&record),
                payload: record,
            };
            if Box::pin(connection.admit(counters, question))
                .await
                .is_err()
            {
                counters.record_refused(RecordRefusal::Ended);
                break;
            }
        }
        reader.give_up(counters);
    }
}

/// Tells the readers of FIFOs that something happened to the names of theirs, or that the server
/// goes down.
#[derive(Debug, Default)]
pub(crate) struct FifoWatch {
    readers: Mutex<HashMap<Box<str>, Arc<Call>>>,
    /// What is said of records that are refused.
    complaints: Mutex<Complaints>,
}

impl FifoWatch {
    /// Passes on what happens in the directory, for ever.
    pub(crate) async fn run(&self, directory: &FifoDirectory) {
        loop {
            match directory.changed().await {
                Ok(names) => names.iter().for_each(|name| self.tell(name)),
                Err(error) => {
                    warn!(error = %Chain(&error), "the FIFO directory cannot be watched");
                    sleep(RENEWAL_INTERVAL).await;
                }
            }
        }
    }

    /// Has every reader look whether the server goes down.
    pub(crate) fn tell_all(&self) {
        self.readers().values().for_each(|reader| reader.wake());
    }

    fn tell(&self, name: &str) {
        if let Some(reader) = self.readers().get(name) {
            reader.change();
        }
    }

    fn expect(&self, name: &str) -> Arc<Call> {
        Arc::clone(self.readers().entry(name.into()).or_default())
    }

    fn forget(&self, name: &str) {
        self.readers().remove(name);
    }

    fn readers(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Call>>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one reader is told, by whatever thread.
#[derive(Debug, Default)]
struct Call(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    has_changed: bool,
    reader: Option<Waker>,
}

impl Call {
    /// Something happened to the name.
    fn change(&self) {
        self.told().has_changed = true;
        self.wake();
    }

    fn wake(&self) {
        if let Some(reader) = &self.told().reader {
            reader.wake_by_ref();
        }
    }

    /// Whether something happened to the name since the last call. The latest caller is woken.
    fn take_change(&self, cx: &Context<'_>) -> bool {
        let mut told = self.told();
        match &mut told.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            None => told.reader = Some(cx.waker().clone()),
        }
        std::mem::take(&mut told.has_changed)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    /// Where a thread's FIFOs are read, one at a time; one that waits holds no buffer.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_SIZE].into_boxed_slice());
}

/// The records of one FIFO.
struct Reader {
    fifo: Fifo,
    decoder: RecordDecoder,
    read_size: usize,
    records: VecDeque<Bytes>,
    /// When the record began whose end has not come.
    partial_since: Option<Instant>,
    /// Something happened to its name.
    is_changed: bool,
    /// Until when nothing is done: it did not work a moment ago, or enough was done.
    pause: Option<Pin<Box<Sleep>>>,
    /// When the record that began is given up.
    partial_timer: Option<Pin<Box<Sleep>>>,
    /// How many records are taken in a second, and how many of these are left.
    throttle: Option<Box<(Rate, Bucket)>>,
    call: Arc<Call>,
    server: Arc<Shared>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.server.fifo_watch.forget(self.fifo.name());
    }
}

impl Reader {
    fn new(fifo: Fifo, server: &Arc<Shared>, read_size: usize) -> Self {
        let call = server.fifo_watch.expect(fifo.name());
        if !fifo.is_intact() {
            // It vanished before there was anybody to tell.
            call.change();
        }
        let throttle = server.current().config.fifo().rate.map(|rate| {
            let rate = Rate::new(rate.get(), rate.get(), std::time::Instant::now());
            Box::new((rate, Bucket::default()))
        });
        Self {
            decoder: decoder(server),
            throttle,
            read_size,
            records: VecDeque::new(),
            partial_since: None,
            is_changed: false,
            pause: None,
            partial_timer: None,
            call,
            server: Arc::clone(server),
            fifo,
        }
    }

    /// The next whole record; `None` when the server goes down and everything that was read is
    /// taken. What is refused is counted and passed over.
    fn poll_next(&mut self, cx: &mut Context<'_>, counters: &Counters) -> Poll<Option<Bytes>> {
        loop {
            if let Some(record) = self.next_read(counters) {
                return Poll::Ready(Some(record));
            }
            // Before the look at what it is told of, so that this cannot be missed.
            let has_changed = self.call.take_change(cx);
            // What is still in the FIFO stays there; its end goes with the directory's owner.
            if *self.server.draining.borrow() {
                return Poll::Ready(None);
            }
            self.is_changed |= has_changed;
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            if !self.records.is_empty() {
                continue;
            }
            if std::mem::take(&mut self.is_changed) {
                self.renew();
                continue;
            }
            // A record whose rest is there already is not unfinished, however late it is read.
            let ready = match self.fifo.poll_readable(cx) {
                Poll::Ready(ready) => ready,
                Poll::Pending => {
                    ready!(self.poll_partial(cx));
                    self.drop_partial();
                    continue;
                }
            };
            match ready.and_then(|()| self.read_by(Fifo::read_ready)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    warn!(fifo = %self.fifo.path().display(), error = %Chain(&error), "cannot read a FIFO");
                    self.pause();
                }
            }
        }
    }

    /// Ready when the time is over of a record that has begun.
    fn poll_partial(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(since) = self.partial_since else {
            self.partial_timer = None;
            return Poll::Pending;
        };
        let deadline = since + PARTIAL_TIMEOUT;
        let timer = self
            .partial_timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx)
    }

    /// Has it tried again in a while.
    fn pause(&mut self) {
        self.pause = Some(Box::pin(sleep(RENEWAL_INTERVAL)));
    }

    /// Counts a record that is not carried out.
    fn refuse(&self, refusal: RecordRefusal, size: usize) {
        refuse(&self.server, refusal, &self.fifo.path().display(), size);
    }

    /// The next of the records that were read already, unless it is too early for it.
    fn next_read(&mut self, counters: &Counters) -> Option<Bytes> {
        if self.records.is_empty() || self.is_held_back() {
            return None;
        }
        let record = self.records.pop_front()?;
        counters.fifo_records.increment();
        Some(record)
    }

    /// Whether records have come faster than they may; then it is paused. What was read when the
    /// server goes down is not waited for.
    fn is_held_back(&mut self) -> bool {
        let Some((rate, bucket)) = self.throttle.as_deref() else {
            return false;
        };
        let now = std::time::Instant::now();
        if let Some(at) = rate.ready_at(bucket, now)
            && !*self.server.draining.borrow()
        {
            self.pause = Some(Box::pin(sleep_until(at.into())));
            return true;
        }
        rate.take(bucket, now);
        false
    }

    /// Counts the records that were read and are not carried out any more.
    fn give_up(self, counters: &Counters) {
        for _ in &self.records {
            counters.fifo_records.increment();
            counters.record_refused(RecordRefusal::Ended);
        }
    }

    /// Reads once, in one of the two ways of a FIFO, and takes the records from what came. Says how
    /// many bytes came.
    fn read_by(&mut self, read: fn(&Fifo, &mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        BUFFER.with_borrow_mut(|buffer| {
            let read = read(&self.fifo, &mut buffer[..self.read_size])?;
            self.take(&buffer[..read]);
            Ok(read)
        })
    }

    /// Takes the records from bytes that were read.
    fn take(&mut self, bytes: &[u8]) {
        let records = &mut self.records;
        let (path, server) = (self.fifo.path(), &self.server);
        let mut began_anew = self.partial_since.is_none();
        self.decoder.feed(bytes, &mut |record| {
            began_anew = true;
            match record {
                Record::Whole(record) => records.push_back(Bytes::copy_from_slice(record)),
                Record::TooLong(size) => {
                    refuse(server, RecordRefusal::TooLong, &path.display(), size);
                }
            }
        });
        if !self.decoder.has_partial() {
            self.partial_since = None;
        } else if began_anew {
            // More bytes of the same record do not buy it more time.
            self.partial_since = Some(Instant::now());
        }
    }

    fn drop_partial(&mut self) {
        self.partial_since = None;
        if let Some(size) = self.decoder.expire() {
            self.refuse(RecordRefusal::Partial, size);
        }
    }

    /// Makes a FIFO anew if it was removed or replaced.
    fn renew(&mut self) {
        if self.fifo.is_intact() {
            return;
        }
        // What was written before its name went counts; a writer that goes on is not waited for.
        for _ in 0..READ_SIZE.div_ceil(self.read_size) {
            match self.read_by(Fifo::try_read) {
                Ok(read) if read > 0 => {}
                Ok(_) | Err(_) => break,
            }
        }
        // Its rest cannot come any more, and what comes through the new one is no rest of it.
        self.drop_partial();
        self.decoder = decoder(&self.server);
        match self.fifo.renew() {
            Ok(()) => {
                warn!(fifo = %self.fifo.path().display(), "a FIFO had vanished and was made anew")
            }
            Err(error) => {
                warn!(error = %Chain(&error), "a FIFO vanished and cannot be made anew");
                self.is_changed = true;
                self.pause();
            }
        }
    }
}

fn decoder(server: &Shared) -> RecordDecoder {
    let current = server.current();
    let config = current.config.fifo();
    let framing = match &config.framing {
        FifoFraming::Lines => Framing::Lines,
        FifoFraming::Delimiter(delimiter) => Framing::Delimiter(delimiter.clone()),
    };
    RecordDecoder::new(framing, config.max_record)
}
