//! What is known of a node in memory only.

use std::collections::VecDeque;
use std::net::IpAddr;

use node_api::{LogLine, Progress, Stage};

use super::text::clean;

/// Log lines of one node; enough for its last words.
const LOG_LINES_MAX: usize = 200;
/// Tokens of one node that are valid at a time: firmware and loaders ask several times in one boot.
pub(super) const TOKENS_MAX: usize = 8;

/// What is known of a node in memory only; a restarted server learns it again from the next report.
pub(super) struct Live {
    /// When anything was heard of it.
    pub(super) last_seen_unix_ms: u64,
    /// Where its agent speaks from.
    pub(super) address: Option<IpAddr>,
    /// The last stage that was heard of.
    pub(super) stage: Option<Stage>,
    /// The newest progress of its agent.
    pub(super) progress: Option<Progress>,
    /// Keys of the newest unused tokens, oldest first.
    pub(super) tokens: VecDeque<String>,
    log: VecDeque<LogLine>,
}

impl Live {
    pub(super) fn new(now_unix_ms: u64) -> Self {
        Self {
            last_seen_unix_ms: now_unix_ms,
            address: None,
            stage: None,
            progress: None,
            tokens: VecDeque::new(),
            log: VecDeque::new(),
        }
    }

    /// A new boot begins: what belongs to the last one is gone.
    pub(super) fn begin_boot(&mut self, stage: Stage) {
        self.stage = Some(stage);
        self.progress = None;
    }

    pub(super) fn push_log(&mut self, lines: Vec<LogLine>) {
        for line in lines {
            if self.log.len() == LOG_LINES_MAX {
                self.log.pop_front();
            }
            let (source, text) = (clean(&line.source), clean(&line.text));
            self.log.push_back(LogLine { uptime_ms: line.uptime_ms, source, text });
        }
    }

    pub(super) fn log(&self) -> Vec<LogLine> {
        self.log.iter().cloned().collect()
    }
}
