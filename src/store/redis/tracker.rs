//! The position of the reader in one partition, and what a frame means from there. No I/O.

use std::collections::VecDeque;

use crate::store::redis::{
    frame::{self, Header},
    log::Log,
    scripts::text,
};
use crate::{
    domain::position::{Epoch, Position},
    store::log::LogEvent,
};

/// Frames remembered, to find where two histories diverge after a rollback.
const REMEMBERED_MAX: usize = 256;

/// What the reader must do with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The frame is the next one.
    Deliver,
    /// The frame was delivered before.
    Known,
    /// A frame before it is missing, or it belongs to another history: read the log.
    ReadLog,
}

#[derive(Debug)]
pub struct Tracker {
    pub partition: u16,
    pub epoch: Epoch,
    /// The last seq delivered.
    pub last: u64,
    /// Set when an epoch begins without common history, until the end of the log is reached. While
    /// it is set, only records written in this epoch are delivered: the others are old.
    pub fresh_epoch: bool,
    /// The newest delivered frames: the last seq and the beginning of each.
    remembered: VecDeque<(u64, Box<str>)>,
}

impl Tracker {
    pub fn new(partition: u16, epoch: Epoch, last: u64) -> Self {
        Self { partition, epoch, last, fresh_epoch: false, remembered: VecDeque::new() }
    }

    pub fn judge(&self, header: &Header, frame: &str) -> Verdict {
        if header.epoch != self.epoch {
            return Verdict::ReadLog;
        }
        if header.first == self.last + 1 {
            return Verdict::Deliver;
        }
        let known = |(seq, begin): &(u64, Box<str>)| {
            *seq == header.last() && **begin == *frame::anchor(frame)
        };
        // A frame from before this node started counts as known, unless something contradicts it.
        let before_memory =
            self.remembered.front().is_none_or(|(oldest, _)| header.last() < *oldest);
        if header.last() <= self.last && (before_memory || self.remembered.iter().any(known)) {
            return Verdict::Known;
        }
        Verdict::ReadLog
    }

    /// Turns a frame into log events and moves on. Messages up to `last` are left out.
    pub fn take(&mut self, header: &Header, lines: &str, frame: &str, out: &mut Vec<LogEvent>) {
        let mut lines = lines.split('\n');
        for seq in header.first..=header.last() {
            let line = lines.next().unwrap_or_default();
            if seq <= self.last {
                continue;
            }
            let position = Position { epoch: self.epoch.clone(), seq };
            out.push(match frame::record(line, position) {
                Ok(record) => LogEvent::Record(record),
                Err(error) => {
                    tracing::error!(seq, %error, "a record of the log cannot be read; skipping it");
                    self.gap(seq, seq)
                }
            });
        }
        self.last = self.last.max(header.last());
        if self.remembered.len() == REMEMBERED_MAX {
            self.remembered.pop_front();
        }
        self.remembered.push_back((header.last(), frame::anchor(frame).into()));
    }

    /// The log no longer has the records before `next`.
    pub fn skip_to(&mut self, next: u64, out: &mut Vec<LogEvent>) {
        if next > self.last + 1 {
            out.push(self.gap(self.last + 1, next - 1));
            self.last = next - 1;
            self.remembered.clear();
        }
    }

    /// A new epoch that shares history with the old one up to `common`, or nothing (0).
    pub fn begin(&mut self, epoch: Epoch, common: u64, out: &mut Vec<LogEvent>) {
        self.epoch = epoch;
        self.last = common;
        self.fresh_epoch = common == 0;
        self.remembered.retain(|(seq, _)| *seq <= common);
        let (partition, epoch) = (self.partition, self.epoch.clone());
        out.push(LogEvent::NewEpoch { partition, epoch, last: common });
    }

    /// The beginning of the frame at `last`, if it is remembered.
    pub fn anchor(&self) -> &str {
        match self.remembered.back() {
            Some((seq, begin)) if *seq == self.last => begin,
            _ => "",
        }
    }

    /// Newest first.
    pub fn remembered(&self) -> impl Iterator<Item = (u64, &str)> {
        self.remembered.iter().rev().map(|(seq, begin)| (*seq, &**begin))
    }

    fn gap(&self, from: u64, to: u64) -> LogEvent {
        LogEvent::Gap { partition: self.partition, epoch: self.epoch.clone(), from, to }
    }

    /// Takes what was read from the log, before live frames continue.
    pub fn take_read(&mut self, log: &Log, out: &mut Vec<LogEvent>) {
        let fresh_epoch = self.fresh_epoch;
        if !fresh_epoch {
            self.skip_to(if log.kept == 0 { log.top + 1 } else { log.kept }, out);
        }
        for frame in &log.frames {
            let Some(frame) = text(frame) else { continue };
            let Some((header, lines)) = frame::split(frame) else {
                tracing::error!("a frame of the log cannot be read");
                continue;
            };
            if fresh_epoch && header.epoch != self.epoch {
                self.last = header.last();
                continue;
            }
            self.skip_to(header.first, out);
            self.take(&header, lines, frame, out);
        }
        // The end of the log can be after its last frame when that one was trimmed.
        if log.frames.is_empty() && log.top > self.last {
            if fresh_epoch {
                self.last = log.top;
            } else {
                self.skip_to(log.top + 1, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u64, epoch: &str, count: u64) -> String {
        let line = |seq| {
            format!(r#"{{"id":"{epoch}{seq}","room":"lobby","from":"u","at":1,"body":{seq}}}"#)
        };
        let lines: Vec<String> = (first..first + count).map(line).collect();
        format!("{first}:{epoch}:{count}\n{}", lines.join("\n"))
    }

    fn tracker() -> Tracker {
        Tracker::new(0, Epoch::new("e"), 0)
    }

    fn take(tracker: &mut Tracker, frame: &str) -> Vec<LogEvent> {
        let (header, lines) = frame::split(frame).unwrap();
        let mut out = Vec::new();
        tracker.take(&header, lines, frame, &mut out);
        out
    }

    fn judge(tracker: &Tracker, frame: &str) -> Verdict {
        tracker.judge(&frame::split(frame).unwrap().0, frame)
    }

    #[test]
    fn frames_in_a_row_are_delivered_and_known_afterwards() {
        let mut tracker = tracker();
        assert_eq!(judge(&tracker, &frame(1, "e", 3)), Verdict::Deliver);
        assert_eq!(take(&mut tracker, &frame(1, "e", 3)).len(), 3);
        assert_eq!(judge(&tracker, &frame(1, "e", 3)), Verdict::Known);
        assert_eq!(judge(&tracker, &frame(4, "e", 1)), Verdict::Deliver);
    }

    #[test]
    fn a_hole_another_epoch_or_another_history_needs_the_log() {
        let mut tracker = tracker();
        take(&mut tracker, &frame(1, "e", 3));
        assert_eq!(judge(&tracker, &frame(5, "e", 1)), Verdict::ReadLog);
        assert_eq!(judge(&tracker, &frame(4, "f", 1)), Verdict::ReadLog);
        let other = frame(1, "e", 3).replace("\"e1\"", "\"x1\"");
        assert_eq!(judge(&tracker, &other), Verdict::ReadLog, "same numbers, other messages");
    }

    #[test]
    fn what_overlaps_is_left_out() {
        let mut tracker = Tracker::new(0, Epoch::new("e"), 2);
        let out = take(&mut tracker, &frame(1, "e", 4));
        assert_eq!(out.len(), 2);
        assert_eq!(tracker.last, 4);
    }

    #[test]
    fn a_hole_that_cannot_be_filled_is_told_exactly() {
        let mut tracker = Tracker::new(0, Epoch::new("e"), 2);
        let mut out = Vec::new();
        tracker.skip_to(10, &mut out);
        let epoch = Epoch::new("e");
        assert_eq!(out, [LogEvent::Gap { partition: 0, epoch, from: 3, to: 9 }]);
        tracker.skip_to(10, &mut out);
        assert_eq!((out.len(), tracker.last), (1, 9));
    }

    #[test]
    fn a_line_that_cannot_be_read_is_a_gap_not_a_silence() {
        let mut tracker = tracker();
        let broken = frame(1, "e", 2).replace("\"id\":\"e2\"", "\"ix\":\"e2\"");
        let out = take(&mut tracker, &broken);
        assert!(matches!(out.last(), Some(LogEvent::Gap { from: 2, to: 2, .. })), "{out:?}");
    }

    #[test]
    fn after_a_rollback_it_goes_on_from_the_common_frame() {
        let mut tracker = tracker();
        take(&mut tracker, &frame(1, "e", 2));
        take(&mut tracker, &frame(3, "e", 2));
        let mut out = Vec::new();
        tracker.begin(Epoch::new("f"), 2, &mut out);
        assert_eq!((tracker.last, tracker.remembered().count()), (2, 1));
        assert!(matches!(out.first(), Some(LogEvent::NewEpoch { .. })));
        assert!(!tracker.anchor().is_empty());
    }
}
