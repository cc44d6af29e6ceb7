//! What a reload does: it loads fresh processes beside those that serve, lets them take over, and
//! keeps the former ones until the fresh ones have proven themselves.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::life::Life;
use super::trial::{Conduct, Trial, Verdict};
use super::{Shared, lock};

/// How often processes on trial are looked at: what they do wrong until then costs messages.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Carries reloads out until the pool is closed.
pub(super) async fn serve(shared: Arc<Shared>, mut asked: watch::Receiver<u64>) {
    let mut closing = shared.closing.subscribe();
    let serving = async {
        while asked.changed().await.is_ok() {
            shared.renew(&mut asked).await;
        }
    };
    tokio::select! {
        () = serving => {}
        _ = closing.wait_for(|&closing| closing) => {}
    }
}

impl Shared {
    /// Replaces all processes, again if that is asked for again, until those that have taken over
    /// may stay, or those before them are back.
    ///
    /// What is asked for meanwhile does not end a load: were it asked for faster than one takes,
    /// none would come to its end. What was loaded then may be half of the old; it is replaced next.
    async fn renew(self: &Arc<Self>, asked: &mut watch::Receiver<u64>) {
        let mut trial = None;
        loop {
            let loaded = {
                let mut loading = pin!(self.load_all());
                loop {
                    tokio::select! {
                        loaded = &mut loading => break loaded,
                        () = sleep(LOOK_EVERY), if trial.is_some() => self.look_at(&mut trial),
                    }
                }
            };
            match loaded {
                Ok(lives) => trial = self.take_over(lives),
                Err(cause) => {
                    self.failed_replacements.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(%cause, "processes cannot be replaced and go on");
                }
            }
            let is_asked_again = loop {
                if trial.is_none() {
                    break false;
                }
                tokio::select! {
                    _ = asked.changed() => break true,
                    () = sleep(LOOK_EVERY) => self.look_at(&mut trial),
                }
            };
            if !is_asked_again {
                return;
            }
        }
    }

    /// Loads as many processes as there are. One is tried out before the others cost anything.
    async fn load_all(self: &Arc<Self>) -> Result<Vec<Life>, String> {
        let mut lives = vec![self.load(Arc::default()).await?];
        let mut loading: JoinSet<_> = (1..self.slots.len())
            .map(|_| {
                let shared = Arc::clone(self);
                async move { shared.load(Arc::default()).await }
            })
            .collect();
        while let Some(loaded) = loading.join_next().await {
            lives.push(loaded.unwrap_or_else(|error| Err(error.to_string()))?);
        }
        Ok(lives)
    }

    /// Has fresh processes serve from now on; those that did so far are kept while these are on
    /// trial.
    fn take_over(&self, lives: Vec<Life>) -> Option<Trial> {
        lives.iter().for_each(Life::connect_ahead);
        let successors: Vec<_> = lives.iter().filter_map(|life| life.service.pid()).collect();
        let count = lives.len();
        let former: Vec<Arc<Life>> = self
            .slots
            .iter()
            .zip(lives)
            .map(|(slot, life)| slot.exchange(Arc::new(life)))
            .collect();
        self.replaced.fetch_add(count as u64, Ordering::Relaxed);
        tracing::info!(?successors, "processes replaced");
        if self.config.probation.is_zero() {
            self.dismiss(former);
            return None;
        }
        let mut reserve = lock(&self.reserve);
        // Of several reloads in a row, those go back to who had proven themselves.
        match reserve.is_empty() {
            true => *reserve = former,
            false => self.dismiss(former),
        }
        Some(Trial::new(Instant::now(), self.config.probation, count))
    }

    /// Ends the trial if it can be judged.
    fn look_at(&self, trial: &mut Option<Trial>) {
        let Some(verdict) = trial.map(|trial| trial.judge(Instant::now(), &self.conduct())) else {
            return;
        };
        match verdict {
            Verdict::Open => return,
            Verdict::Proven => {
                let former = std::mem::take(&mut *lock(&self.reserve));
                self.dismiss(former);
            }
            Verdict::Failed(cause) => {
                let former = std::mem::take(&mut *lock(&self.reserve));
                let slots = self.slots.iter().zip(former);
                let failed = slots.map(|(slot, life)| slot.exchange(life)).collect();
                self.dismiss(failed);
                self.failed_replacements.fetch_add(1, Ordering::Relaxed);
                let pids: Vec<_> = self.pids().collect();
                tracing::error!(cause, ?pids, "the former processes are back");
            }
        }
        *trial = None;
    }

    /// What those that serve have done.
    fn conduct(&self) -> Conduct {
        let mut conduct = Conduct::default();
        for life in self.lives() {
            let has_answered = life.record.has_answered.load(Ordering::Relaxed);
            let ends = life.service.ends();
            conduct.has_answered |= has_answered;
            conduct.failed += life.record.failed.load(Ordering::Relaxed);
            conduct.in_hand += life.in_hand.load(Ordering::Relaxed);
            conduct.ends += ends;
            conduct.is_stillborn |= ends > 0 && !has_answered;
        }
        conduct
    }

    /// Lets processes go; each ends when it has nothing in hand.
    fn dismiss(&self, lives: Vec<Arc<Life>>) {
        for life in &lives {
            let restarts = life.service.restarts();
            self.restarts_of_replaced
                .fetch_add(restarts, Ordering::Relaxed);
            // A child that waits for a request would keep its fork server from ending.
            lock(&life.ahead).clear();
        }
    }
}
