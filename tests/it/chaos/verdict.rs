//! What a run of faults has shown, and whether it is what was promised.

use std::{fmt, time::Duration};

use super::{Breach, Plan, presence::Watchers};
use crate::harness::{
    checker::{History, Moment, Report, check},
    diary::{Diary, Latency},
};

/// What is promised after a fault has ended, and for how many in a hundred. A short run shares its
/// machine with other tests and says nothing of speed, only that no client stays away.
const BACK_WITHIN: Duration = Duration::from_secs(10);
const BACK_WITHIN_SHORT: Duration = Duration::from_secs(60);
const BACK_PERCENT: usize = 99;
/// What a fault has done can be felt for a while after it has ended.
const AFTERMATH: Duration = Duration::from_secs(2);

/// What a run has shown.
pub struct Verdict {
    pub report: Report,
    pub broken: Vec<String>,
    /// Presence events that the watchers received.
    presence: usize,
    begun_anew: usize,
    recovered: usize,
    /// Of each absence, how long after the last fault it lasted.
    returns: Vec<Duration>,
    /// Acks, then receipts; of what was sent in quiet times, then of the rest.
    latencies: [[Vec<Duration>; 2]; 2],
}

impl Verdict {
    pub fn of(diaries: &[Diary], breaches: &[Breach]) -> Self {
        let mut history = History::default();
        let mut verdict = Self {
            report: Report::default(),
            broken: Vec::new(),
            presence: 0,
            begun_anew: 0,
            recovered: 0,
            returns: Vec::new(),
            latencies: Default::default(),
        };
        for diary in diaries {
            let mut pages = diary.read();
            history.attempts.append(&mut pages.attempts);
            history.lives.append(&mut pages.lives);
            verdict.broken.append(&mut pages.broken);
            verdict.begun_anew += pages.begun_anew;
            verdict.recovered += pages.recovered;
            for absence in &pages.absences {
                let until = absence.until.unwrap_or(Moment::MAX);
                verdict.returns.push(until - whole_again(absence.from, until, breaches));
            }
            for (kind, all) in [&pages.acks, &pages.receipts].into_iter().enumerate() {
                for Latency { begun, took } in all {
                    let breach =
                        |breach: &Breach| (breach.from..breach.until + AFTERMATH).contains(begun);
                    let loud = usize::from(breaches.iter().any(breach));
                    verdict.latencies[kind][loud].push(*took);
                }
            }
        }
        history.attempts.sort_by_key(|attempt| attempt.at);
        verdict.report = check(&history);
        verdict.returns.sort_unstable();
        verdict.latencies.iter_mut().flatten().for_each(|all| all.sort_unstable());
        verdict
    }

    pub fn watched(&mut self, watchers: Watchers) {
        let (broken, told) = watchers.end();
        self.broken.extend(broken);
        self.presence = told;
    }

    pub fn assert_kept(&self, plan: &Plan) {
        let Plan { seed, .. } = plan;
        assert!(self.report.is_clean(), "seed {seed}: {self}");
        assert_eq!(self.report.excused, 0, "seed {seed}: told of a hole: {self}");
        assert!(self.broken.is_empty(), "seed {seed}: {self}");
        let within = if plan.rounds > 1 { BACK_WITHIN } else { BACK_WITHIN_SHORT };
        let late = self.returns.iter().filter(|after| **after > within).count();
        let few = late * 100 <= self.returns.len() * (100 - BACK_PERCENT);
        assert!(few, "seed {seed}: {late} were back late: {self}");
        assert!(self.report.stored > 100, "seed {seed}: too quiet to prove anything: {self}");
    }
}

/// When the last fault was over that an absence had to wait for; its own beginning without one.
fn whole_again(from: Moment, until: Moment, breaches: &[Breach]) -> Moment {
    let ends = breaches.iter().map(|breach| breach.until.min(until));
    ends.filter(|end| *end > from).max().unwrap_or(from)
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.report)?;
        let (count, most) = (self.returns.len(), self.returns.last().copied().unwrap_or_default());
        let back = percentile(&self.returns, BACK_PERCENT);
        write!(f, "\n  {count} absences, {} recovered, ", self.recovered)?;
        write!(f, "{} anew without offset; ", self.begun_anew)?;
        write!(f, "back {BACK_PERCENT} % within {back:.1?}, all within {most:.1?}")?;
        for (what, latencies) in ["acks", "receipts"].iter().zip(&self.latencies) {
            let [quiet, loud] = [0, 1].map(|kind| {
                let all = &latencies[kind];
                format!("{:.1?} / {:.1?}", percentile(all, 50), percentile(all, 99))
            });
            write!(f, "\n  {what} p50 / p99: {quiet} quiet, {loud} in faults")?;
        }
        for broken in self.broken.iter().take(10) {
            write!(f, "\n  broken: {broken}")?;
        }
        write!(f, "\n  {} presence events, ", self.presence)?;
        write!(f, "{} broken promises", self.broken.len())
    }
}
