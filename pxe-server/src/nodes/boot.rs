//! How a node gets from its boot script to a session.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use dhcp_wire::MacAddr;
use node_api::{EnrolRequest, EnrolRequestBody, Identity, Stage};
use store::{Expect, Write};

use super::live::TOKENS_MAX;
use super::machine::wants_agent;
use super::record::{NodeRecord, Purpose, TokenRecord};
use super::{Nodes, sha256_hex};
use crate::clock::now_unix_ms;
use crate::keys::random;
use crate::netboot::{Hint, UefiLoader};

/// A token that was not used for so long names no boot any more.
const TOKEN_LIFE_MS: u64 = 10 * 60 * 1000;
/// The agent of one boot may start again and enrol again for so long.
const USED_TOKEN_LIFE_MS: u64 = 7 * 24 * 3600 * 1000;
/// Nonces and tokens are random text; this is far above what either needs.
const RANDOM_TEXT_BYTES_MAX: usize = 128;

/// What a node boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Boot {
    /// Its own disk.
    Local,
    /// The agent, with a token for this boot.
    Agent {
        /// Secret until it is used.
        token: String,
    },
}

/// What an enrolment gives.
#[derive(Debug)]
pub(crate) struct Enrolled {
    /// The node's name.
    pub(crate) node: String,
    /// The session's secret; only its hash is stored.
    pub(crate) session: String,
}

/// Why an enrolment is refused; the sentence is for the node's console.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Not what an agent sends.
    #[error("the enrolment cannot be read or is not signed by the key that it names")]
    Malformed,
    /// A token of nobody, or of long ago.
    #[error("the token is unknown or has expired; boot over the network again")]
    Token,
    /// A token that another agent used.
    #[error("the token was used by another boot; boot over the network again")]
    TokenUsed,
    /// A token of another NIC.
    #[error("the token was made for another hardware address; boot over the network again")]
    OtherMac,
    /// The store failed.
    #[error("the server cannot store the enrolment")]
    Internal(#[source] anyhow::Error),
}

impl Nodes {
    /// DHCP was heard from a machine. Only a note in memory, and only if the node is known.
    pub(crate) fn saw_dhcp(&self, mac: MacAddr) {
        self.saw(mac, Stage::Discover);
    }

    /// What DHCP has to know of a machine: one that a person or the site file let in is known.
    pub(crate) fn hint(&self, mac: MacAddr) -> Hint {
        let inner = self.lock();
        let name = inner.by_mac.get(&mac.to_string());
        let record = name.and_then(|name| inner.nodes.get(name)).map(|entry| &entry.record);
        let is_approved = record.is_some_and(|record| record.approved.is_some());
        Hint {
            known: is_approved || self.names_given().contains_key(&mac),
            boots_locally: record.is_some_and(|record| !wants_agent(record)),
            left_alone: false,
            loader: record.map(loader).unwrap_or_default(),
        }
    }

    /// What is known of a machine before it says anything: its name or the one that it would get, what SMBIOS said when
    /// its agent enrolled last, and where that agent spoke from.
    pub(crate) fn before_boot(&self, mac: MacAddr) -> (String, Option<Identity>, Option<IpAddr>) {
        let inner = self.lock();
        let entry = inner.by_mac.get(&mac.to_string()).and_then(|name| inner.nodes.get(name));
        match entry {
            Some(entry) => (entry.record.name.clone(), entry.record.identity.clone(), entry.live.address),
            None => (self.new_name(&inner, mac), None, None),
        }
    }

    /// The firmware of a machine fetched iPXE and did not start it. Stored when this returns.
    pub(crate) fn refused_ipxe(&self, mac: MacAddr) -> Result<()> {
        let name = self.ensure(mac)?;
        self.update(&name, |transition, _| {
            transition.refused_ipxe();
            Ok(())
        })
    }

    /// The firmware of a machine fetched shim, and not for the first time, and did not start it. Stored when this returns.
    pub(crate) fn refused_shim(&self, mac: MacAddr) -> Result<()> {
        let name = self.ensure(mac)?;
        self.update(&name, |transition, _| {
            transition.refused_shim();
            Ok(())
        })?;
        let alarm = self.view(&name).and_then(|view| view.alarm).unwrap_or_default();
        tracing::warn!(node = name, %mac, "{alarm}");
        Ok(())
    }

    /// Shim runs on a machine. Writes only if that is news.
    pub(crate) fn runs_shim(&self, mac: MacAddr) -> Result<()> {
        if !self.has_refused(mac, |record| record.refused_shim_unix_ms.is_some()) {
            return Ok(());
        }
        let name = self.ensure(mac)?;
        self.update(&name, |transition, _| {
            transition.runs_shim();
            Ok(())
        })
    }

    fn has_refused(&self, mac: MacAddr, what: impl Fn(&NodeRecord) -> bool) -> bool {
        let inner = self.lock();
        let entry = inner.by_mac.get(&mac.to_string()).and_then(|name| inner.nodes.get(name));
        entry.is_some_and(|entry| what(&entry.record))
    }

    /// iPXE runs on a machine. Writes only if that is news.
    pub(crate) fn runs_ipxe(&self, mac: MacAddr) -> Result<()> {
        let refused =
            |record: &NodeRecord| record.refused_ipxe_unix_ms.or(record.refused_shim_unix_ms).is_some();
        if !self.has_refused(mac, refused) {
            return Ok(());
        }
        let name = self.ensure(mac)?;
        self.update(&name, |transition, _| {
            transition.runs_ipxe();
            Ok(())
        })
    }

    /// A boot file was fetched by a machine.
    pub(crate) fn saw_load(&self, mac: MacAddr) {
        self.saw(mac, Stage::Load);
    }

    fn saw(&self, mac: MacAddr, stage: Stage) {
        let mut inner = self.lock();
        let Some(name) = inner.by_mac.get(&mac.to_string()).cloned() else { return };
        if let Some(entry) = inner.nodes.get_mut(&name) {
            entry.live.saw(stage, now_unix_ms());
            inner.changed.insert(name);
        }
    }

    /// A machine does a network boot, and has this name. Unless it does more than that it is forgotten again.
    pub(crate) fn discover(&self, mac: MacAddr) -> Result<String> {
        self.ensure(mac)
    }

    /// A machine is more than passing: it is in the store from now on.
    pub(crate) fn keep_known(&self, mac: MacAddr) -> Result<()> {
        self.keep(mac).map(drop)
    }

    /// What a machine that asks for its boot script boots. A token is stored before it is given.
    pub(crate) fn decide(&self, mac: MacAddr) -> Result<Boot> {
        self.boot(mac, Purpose::Task)
    }

    /// Starts the agent, whatever is owed to the node, and gives it no task.
    pub(crate) fn boot_for_inventory(&self, mac: MacAddr) -> Result<Boot> {
        self.boot(mac, Purpose::Inventory)
    }

    /// What SMBIOS said when the node's agent enrolled last.
    pub(crate) fn known_identity(&self, mac: MacAddr) -> Option<Identity> {
        let inner = self.lock();
        let name = inner.by_mac.get(&mac.to_string())?;
        inner.nodes.get(name)?.record.identity.clone()
    }

    /// A node's record and where its agent speaks from.
    pub(crate) fn at_work(&self, name: &str) -> Option<(NodeRecord, Option<IpAddr>)> {
        self.lock().nodes.get(name).map(|entry| (entry.record.clone(), entry.live.address))
    }

    fn boot(&self, mac: MacAddr, purpose: Purpose) -> Result<Boot> {
        let name = self.keep(mac)?;
        let token = hex::encode(random::<16>()?);
        let key = token_key(&token);
        let oldest = {
            let mut inner = self.lock();
            let tokens = inner.nodes.get_mut(&name).map(|entry| &mut entry.live.tokens);
            tokens.and_then(|tokens| if tokens.len() >= TOKENS_MAX { tokens.pop_front() } else { None })
        };
        let boot = self.update(&name, |transition, writes| {
            if purpose == Purpose::Task && !wants_agent(transition.record) {
                transition.boots_local();
                return Ok(Boot::Local);
            }
            transition.boots_agent(purpose);
            let record = TokenRecord {
                node: transition.record.name.clone(),
                mac: mac.to_string(),
                minted_unix_ms: transition.now_unix_ms,
                used_by: None,
                purpose,
            };
            writes.push(Write::put(key.clone(), Expect::Absent, serde_json::to_vec(&record)?));
            if let Some(oldest) = oldest.as_ref().filter(|oldest| self.is_unused(oldest)) {
                writes.push(Write::delete(oldest.clone(), Expect::Anything));
            }
            Ok(Boot::Agent { token: token.clone() })
        })?;
        if let (Boot::Agent { .. }, Some(entry)) = (&boot, self.lock().nodes.get_mut(&name)) {
            entry.live.tokens.push_back(key);
        }
        self.saw(mac, Stage::Load);
        Ok(boot)
    }

    fn is_unused(&self, token_key: &str) -> bool {
        let record = self.store.get(token_key).ok().flatten();
        record
            .and_then(|found| serde_json::from_slice::<TokenRecord>(&found.value).ok())
            .is_some_and(|token| token.used_by.is_none())
    }

    /// Trades a token for a session. The same agent may do so again; its former session ends.
    pub(crate) fn enrol(&self, request: &EnrolRequest, address: IpAddr) -> Result<Enrolled, Refusal> {
        let body = request.open().filter(is_well_formed).ok_or(Refusal::Malformed)?;
        let mac: MacAddr = body.mac.parse().map_err(|_| Refusal::Malformed)?;
        let (_, token) = self.token(&body.token).map_err(Refusal::Internal)?.ok_or(Refusal::Token)?;
        let session = hex::encode(random::<32>().map_err(Refusal::Internal)?);
        let rule = self.approving_rule(&body, mac);
        let seen =
            self.lock().nodes.get(&token.node).map(|entry| entry.live.seen_stages()).unwrap_or_default();
        let enrolled = self.update(&token.node, |transition, writes| {
            // Read again on each try: of two agents with one token only the first may have it.
            let Some((version, mut token)) = self.token(&body.token)? else { return Ok(Err(Refusal::Token)) };
            if let Err(refusal) = check_token(&token, &body, mac, transition.now_unix_ms) {
                return Ok(Err(refusal));
            }
            if token.used_by.is_none() {
                token.used_by = Some(body.node_key.clone());
                let value = serde_json::to_vec(&token)?;
                writes.push(Write::put(token_key(&body.token), Expect::Version(version), value));
            }
            let granted = (rule.as_deref(), token.purpose);
            transition.enrolled(&body, sha256_hex(&session), granted, seen.clone());
            Ok(Ok(()))
        });
        enrolled.map_err(Refusal::Internal)??;
        let mut inner = self.lock();
        inner.heard(&token.node, address, now_unix_ms());
        if let Some(entry) = inner.nodes.get_mut(&token.node) {
            entry.live.stage = Some(Stage::Enrol);
        }
        Ok(Enrolled { node: token.node, session })
    }

    fn token(&self, token: &str) -> Result<Option<(u64, TokenRecord)>> {
        let Some(found) = self.store.get(&token_key(token))? else { return Ok(None) };
        let record = serde_json::from_slice(&found.value).context("reading a token's record")?;
        Ok(Some((found.version, record)))
    }

    fn approving_rule(&self, body: &EnrolRequestBody, mac: MacAddr) -> Option<String> {
        let rules = &self.approve;
        if rules.all {
            return Some("the rule `approve all`".to_owned());
        }
        if rules.macs.contains(&mac) {
            return Some(format!("the rule for {mac}"));
        }
        let serial = body.identity.serial.as_ref()?;
        rules.serials.contains(serial).then(|| format!("the rule for serial number {serial}"))
    }

    /// Forgets tokens that can be used no more.
    pub(crate) fn prune_tokens(&self, now_unix_ms: u64) -> Result<()> {
        let mut writes = Vec::new();
        for (key, found) in self.store.list("token/")? {
            let record: Option<TokenRecord> = serde_json::from_slice(&found.value).ok();
            let over = record.is_none_or(|token| {
                let life_ms = if token.used_by.is_some() { USED_TOKEN_LIFE_MS } else { TOKEN_LIFE_MS };
                now_unix_ms.saturating_sub(token.minted_unix_ms) > life_ms
            });
            if over {
                writes.push(Write::delete(key, Expect::Version(found.version)));
            }
        }
        for batch in writes.chunks(store::WRITES_MAX) {
            // A conflict means that one of them was used just now; the next round sees to the others.
            self.store.commit(batch)?;
        }
        Ok(())
    }
}

/// What a machine's UEFI loads by what it has refused.
fn loader(record: &NodeRecord) -> UefiLoader {
    match (record.refused_ipxe_unix_ms, record.refused_shim_unix_ms) {
        (None, _) => UefiLoader::Ipxe,
        (Some(_), None) => UefiLoader::Signed,
        (Some(_), Some(_)) => UefiLoader::Nothing,
    }
}

fn is_well_formed(body: &EnrolRequestBody) -> bool {
    let random_text = |text: &str| {
        (1..=RANDOM_TEXT_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    random_text(&body.token) && random_text(&body.boot_nonce)
}

fn check_token(
    token: &TokenRecord,
    body: &EnrolRequestBody,
    mac: MacAddr,
    now_unix_ms: u64,
) -> Result<(), Refusal> {
    if token.mac != mac.to_string() {
        return Err(Refusal::OtherMac);
    }
    match &token.used_by {
        Some(key) if *key == body.node_key => Ok(()),
        Some(_) => Err(Refusal::TokenUsed),
        None if now_unix_ms.saturating_sub(token.minted_unix_ms) > TOKEN_LIFE_MS => Err(Refusal::Token),
        None => Ok(()),
    }
}

fn token_key(token: &str) -> String {
    format!("token/{}", sha256_hex(token))
}
