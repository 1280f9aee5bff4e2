//! What is known of a node in memory only.

use std::collections::VecDeque;
use std::net::IpAddr;

use node_api::{LogLine, Progress, Stage};

use super::record::StageTime;
use super::text::clean;

/// Log lines of one node; enough for its last words.
const LOG_LINES_MAX: usize = 200;
/// Firmware that is silent for so long has begun anew.
const BOOT_PAUSE_MS: u64 = 180_000;
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
    /// When this boot's first DHCP was heard.
    pub(super) discovered_unix_ms: Option<u64>,
    /// When this boot's script was asked for.
    pub(super) load_unix_ms: Option<u64>,
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
            discovered_unix_ms: None,
            load_unix_ms: None,
            progress: None,
            tokens: VecDeque::new(),
            log: VecDeque::new(),
        }
    }

    /// Firmware or a loader was heard: a boot begins or goes on, and what belongs to the last one is gone.
    pub(super) fn saw(&mut self, stage: Stage, now_unix_ms: u64) {
        let goes_on = matches!(self.stage, Some(Stage::Discover | Stage::Load))
            && now_unix_ms.saturating_sub(self.last_seen_unix_ms) < BOOT_PAUSE_MS;
        if !goes_on {
            self.discovered_unix_ms = None;
            self.load_unix_ms = None;
        }
        let begun =
            if stage == Stage::Discover { &mut self.discovered_unix_ms } else { &mut self.load_unix_ms };
        begun.get_or_insert(now_unix_ms);
        self.last_seen_unix_ms = now_unix_ms;
        self.stage = Some(stage);
        self.progress = None;
    }

    /// The stages of this boot that the server saw itself; how long loading took is known once the kernel speaks.
    pub(super) fn seen_stages(&self) -> Vec<StageTime> {
        let time = |stage, began_unix_ms, took_ms| StageTime {
            stage,
            began_unix_ms,
            took_ms,
            detail: String::new(),
        };
        let discover = self.discovered_unix_ms.map(|began| {
            time(Stage::Discover, began, self.load_unix_ms.map(|load| load.saturating_sub(began)))
        });
        let load = self.load_unix_ms.map(|began| time(Stage::Load, began, None));
        discover.into_iter().chain(load).collect()
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
