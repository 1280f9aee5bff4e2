//! Delta images: what leads from an image that nodes have to the one that they get.
//!
//! ```text
//!  first node that has BASE --> image-tools delta --> STATE/deltas/BASE-NEW.esir --> offered from then on
//!                                     \-> failed, or as large as the image: nodes get the image in full
//! ```
//! Never signs anything: nodes compare what they make of a delta image with the signed image that it leads to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use store::Store;

use crate::images::{Image, Images};

/// Makes delta images; lies beside this program.
const PROGRAM: &str = "image-tools";
/// Nodes wait for a delta image, so it is packed quickly; a slower level saves a tenth.
const LEVEL: &str = "3";
/// Beyond this part of the image a delta image isn't worth its room on nodes' disks (percent).
const WORTH_PERCENT_MAX: u64 = 75;
/// What an image may be called.
const NAME_CHARS_MAX: usize = 200;
/// The end of what `image-tools` said that a warning quotes.
const QUOTED_BYTES: usize = 1000;

/// Every delta image of this server, made or in the making.
pub(crate) struct Deltas {
    /// `None` where the site doesn't want any.
    folder: Option<PathBuf>,
    store: Store,
    first_number: u16,
    known: Arc<Mutex<Known>>,
}

/// By the ids of the image that nodes have and the one that they get.
type Known = BTreeMap<(String, String), DeltaAnswer>;

/// What there is for a node that has an older image.
#[derive(Clone, Debug)]
pub(crate) enum DeltaAnswer {
    /// Not yet; ask again.
    Making,
    /// This.
    Ready(Arc<Image>),
    /// Nothing: the image has to be fetched in full.
    None,
}

impl Deltas {
    /// Opens what an earlier server left in `folder` for these images; the rest of it goes. What cannot be read is made
    /// anew when it is asked for.
    pub(crate) fn open(folder: Option<PathBuf>, images: &Images, store: &Store) -> Result<Self> {
        let first_number = images.next_number();
        let deltas = Self { folder, store: store.clone(), first_number, known: Arc::default() };
        let Some(folder) = &deltas.folder else { return Ok(deltas) };
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let new = images.default_image();
        let bases = images.all().filter(|image| image.id != new.id);
        let wanted: Vec<(Arc<Image>, PathBuf)> =
            bases.map(|base| (Arc::clone(base), path_in(folder, base, &new))).collect();
        forget_others(folder, &wanted)?;
        for (base, path) in wanted.iter().filter(|(_, path)| path.exists()) {
            let number = first_number.saturating_add(u16::try_from(deltas.lock().len()).unwrap_or(u16::MAX));
            match open_made(number, path, base, &new, store) {
                Ok(answer) => drop(deltas.lock().insert((base.id.clone(), new.id.clone()), answer)),
                Err(error) => tracing::warn!("a delta image is made again when it is needed: {error:#}"),
            }
        }
        Ok(deltas)
    }

    /// What leads from `base` to `new`. The first question begins to make it.
    pub(crate) fn between(&self, base: &Arc<Image>, new: &Arc<Image>) -> DeltaAnswer {
        let Some(folder) = self.folder.as_ref().filter(|_| base.id != new.id) else {
            return DeltaAnswer::None;
        };
        let key = (base.id.clone(), new.id.clone());
        let mut known = self.lock();
        if let Some(answer) = known.get(&key) {
            return answer.clone();
        }
        let number = self.first_number.saturating_add(u16::try_from(known.len()).unwrap_or(u16::MAX));
        let (path, store) = (path_in(folder, base, new), self.store.clone());
        let (base, new, all) = (Arc::clone(base), Arc::clone(new), Arc::clone(&self.known));
        let made_key = key.clone();
        // It takes minutes at times, so a thread of its own does it.
        let thread = std::thread::Builder::new().name("delta".to_owned());
        let made = thread.spawn(move || {
            let made = make(&path, &base, &new).and_then(|()| open_made(number, &path, &base, &new, &store));
            let answer = made.unwrap_or_else(|error| {
                tracing::warn!(base = base.name, image = new.name, "nodes get the image in full: {error:#}");
                DeltaAnswer::None
            });
            all.lock().unwrap_or_else(PoisonError::into_inner).insert(made_key, answer);
        });
        let answer = match made {
            Ok(_) => DeltaAnswer::Making,
            Err(error) => {
                tracing::warn!("nodes get the image in full, because no thread could be started: {error}");
                DeltaAnswer::None
            }
        };
        known.insert(key, answer.clone());
        answer
    }

    /// The delta image of this id.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Image>> {
        self.ready().into_iter().find(|image| image.id == id)
    }

    /// Every delta image that leads to an image.
    pub(crate) fn leading_to(&self, id: &str) -> Vec<Arc<Image>> {
        let leads =
            |image: &Arc<Image>| image.manifest.delta.is_some_and(|delta| delta.image.to_string() == id);
        self.ready().into_iter().filter(leads).collect()
    }

    fn ready(&self) -> Vec<Arc<Image>> {
        let ready = |answer: &DeltaAnswer| match answer {
            DeltaAnswer::Ready(image) => Some(Arc::clone(image)),
            DeltaAnswer::Making | DeltaAnswer::None => None,
        };
        self.lock().values().filter_map(ready).collect()
    }

    /// A panic elsewhere leaves it as it was: each change is one assignment.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn path_in(folder: &Path, base: &Image, new: &Image) -> PathBuf {
    folder.join(format!("{}-{}.esir", short(&base.id), short(&new.id)))
}

/// Enough of an image id to tell a site's images apart; what is opened is compared with all of it.
fn short(id: &str) -> &str {
    id.get(..16).unwrap_or(id)
}

/// Removes delta images that lead from or to images that this server doesn't have any more.
fn forget_others(folder: &Path, wanted: &[(Arc<Image>, PathBuf)]) -> Result<()> {
    let names: Vec<String> = wanted
        .iter()
        .filter_map(|(_, path)| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !names.iter().any(|wanted| name.starts_with(wanted.as_str())) {
            let path = entry.path();
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

fn make(path: &Path, base: &Image, new: &Image) -> Result<()> {
    let begun = Instant::now();
    tracing::info!(
        base = base.name,
        image = new.name,
        "making the delta image; nodes that have the base wait for it"
    );
    let program = std::env::current_exe().context("asking for this program's place")?.with_file_name(PROGRAM);
    let mut command = Command::new("nice");
    command.arg(&program).arg("delta").arg(&base.path).arg(&new.path);
    command.args(["--level", LEVEL, "--name"]).arg(name(base, new)).arg("-o").arg(path);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("running {}", program.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let from = said.char_indices().rev().take(QUOTED_BYTES).last().map_or(0, |(at, _)| at);
        bail!(
            "{} delta: {}: {}",
            program.display(),
            output.status,
            said.get(from..).unwrap_or_default().trim()
        );
    }
    tracing::info!(
        base = base.name,
        image = new.name,
        "the delta image is made in {} s",
        begun.elapsed().as_secs()
    );
    Ok(())
}

/// Of the names' characters, which are all plain.
fn name(base: &Image, new: &Image) -> String {
    let name = format!("{}-from-{}", new.name, base.name);
    name.chars().take(NAME_CHARS_MAX).collect()
}

/// Opens a delta image and checks that it is the one that was wanted, and worth it.
fn open_made(number: u16, path: &Path, base: &Image, new: &Image, store: &Store) -> Result<DeltaAnswer> {
    let image = Image::open_delta(number, path, store)?;
    let delta = image.manifest.delta.with_context(|| format!("{} is no delta image", path.display()))?;
    ensure!(
        delta.base.to_string() == base.id && delta.image.to_string() == new.id,
        "{} leads from another image or to another",
        path.display()
    );
    let (bytes, of) = (image.manifest.file_size, new.manifest.file_size);
    if bytes > of / 100 * WORTH_PERCENT_MAX {
        tracing::info!(
            base = base.name,
            image = new.name,
            bytes,
            "the delta image saves little; it is not used"
        );
        return Ok(DeltaAnswer::None);
    }
    tracing::info!(
        base = base.name,
        image = new.name,
        bytes,
        "nodes that have the base fetch the delta image"
    );
    Ok(DeltaAnswer::Ready(Arc::new(image)))
}
