//! Debian packages, fetched with apt into a cache and unpacked there; nothing is installed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Debian's archive key, where Debian and Ubuntu have it.
const ARCHIVE_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Fetches and unpacks packages from the sources that apt knows on this machine.
#[derive(Clone, Debug)]
pub(super) struct Packages {
    cache: PathBuf,
    apt_options: Vec<OsString>,
    /// What apt said before: each question takes it most of a second.
    dependencies: RefCell<BTreeMap<String, Vec<String>>>,
    unpacked: RefCell<BTreeMap<String, PathBuf>>,
}

impl Packages {
    /// Uses apt's own sources; downloads are kept below `cache`, which is made.
    pub(super) fn new(cache: &Path) -> Result<Self> {
        std::fs::create_dir_all(cache).with_context(|| format!("making the cache {}", cache.display()))?;
        let cache = cache.canonicalize().with_context(|| format!("finding the cache {}", cache.display()))?;
        // apt would drop to its own user, who may not write into our cache.
        let apt_options = vec!["-o".into(), "APT::Sandbox::User=root".into()];
        Ok(Self { cache, apt_options, dependencies: RefCell::default(), unpacked: RefCell::default() })
    }

    /// The same archives with another component, such as `non-free-firmware`, in lists of our own: apt's
    /// configuration on this machine is not touched.
    pub(super) fn with_component(&self, component: &str) -> Result<Self> {
        let sources = self.sources_with(component)?;
        let home = self.cache.join(format!("apt-{component}"));
        for directory in ["lists/partial", "archives/partial"] {
            let directory = home.join(directory);
            std::fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        }
        let list = home.join("sources.list");
        std::fs::write(&list, sources).with_context(|| format!("writing {}", list.display()))?;
        let mut other = self.clone();
        for (name, value) in [
            ("Dir::Etc::sourcelist", list.as_os_str()),
            ("Dir::Etc::sourceparts", "-".as_ref()),
            ("Dir::State::lists", home.join("lists").as_os_str()),
            ("Dir::Cache", home.as_os_str()),
        ] {
            let mut option = OsString::from(format!("{name}="));
            option.push(value);
            other.apt_options.extend(["-o".into(), option]);
        }
        other.output("apt-get", &["update"], &self.cache)?;
        Ok(other)
    }

    fn sources_with(&self, component: &str) -> Result<String> {
        let format = "$(REPO_URI) $(SUITE) $(RELEASE) $(COMPONENT) $(ORIGIN)";
        let targets = self.output(
            "apt-get",
            &["indextargets", "--format", format, "Created-By: Packages"],
            &self.cache,
        )?;
        let key = if Path::new(ARCHIVE_KEYRING).exists() {
            format!("[signed-by={ARCHIVE_KEYRING}] ")
        } else {
            String::new()
        };
        let mut sources = String::new();
        for line in targets.lines() {
            if let [uri, _, release, "main", "Debian"] = line.split(' ').collect::<Vec<_>>().as_slice() {
                sources.push_str(&format!("deb {key}{uri} {release} {component}\n"));
            }
        }
        if sources.is_empty() {
            bail!("apt has no Debian archive among its sources");
        }
        Ok(sources)
    }

    /// Whether apt knows a version of this package.
    pub(super) fn knows(&self, package: &str) -> bool {
        self.output("apt-cache", &["show", "--no-all-versions", package], &self.cache)
            .is_ok_and(|text| !text.is_empty())
    }

    /// What a package depends on, in its own order, alternatives and virtual packages left out.
    pub(super) fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        if let Some(known) = self.dependencies.borrow().get(package) {
            return Ok(known.clone());
        }
        let text = self.output("apt-cache", &["depends", package], &self.cache)?;
        let words = text.lines().filter_map(|line| {
            let line = line.trim();
            line.strip_prefix("Depends: ").or_else(|| line.strip_prefix("PreDepends: "))
        });
        let names: Vec<String> = words.filter(|word| !word.starts_with('<')).map(str::to_owned).collect();
        self.dependencies.borrow_mut().insert(package.to_owned(), names.clone());
        Ok(names)
    }

    /// Fetches a package unless the cache has that version, unpacks it, and says where.
    pub(super) fn unpacked(&self, package: &str) -> Result<PathBuf> {
        if let Some(known) = self.unpacked.borrow().get(package) {
            return Ok(known.clone());
        }
        let directory = self.fetch_and_unpack(package)?;
        self.unpacked.borrow_mut().insert(package.to_owned(), directory.clone());
        Ok(directory)
    }

    fn fetch_and_unpack(&self, package: &str) -> Result<PathBuf> {
        let archive = self.fetch(package)?;
        let name = archive.file_stem().context("a package file has a name")?;
        let directory = self.cache.join("unpacked").join(name);
        if directory.exists() {
            return Ok(directory);
        }
        let partial = self.cache.join("unpacked").join(format!(".{}-{}", name.display(), std::process::id()));
        std::fs::create_dir_all(&partial).with_context(|| format!("making {}", partial.display()))?;
        eprintln!("unpacking {}", name.display());
        let status = Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&partial).status();
        let status = status.context("running dpkg-deb; it is part of the package dpkg")?;
        if !status.success() {
            let _ = std::fs::remove_dir_all(&partial);
            bail!("dpkg-deb cannot unpack {}; delete it and try again", archive.display());
        }
        std::fs::rename(&partial, &directory).with_context(|| format!("naming {}", directory.display()))?;
        Ok(directory)
    }

    /// The package file in the cache. Without a network, the newest one that was fetched before.
    fn fetch(&self, package: &str) -> Result<PathBuf> {
        let debs = self.cache.join("debs");
        let empty = self.cache.join("empty");
        for directory in [&debs, &empty] {
            std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        }
        // Asked in an empty directory, because apt says nothing of a file that is already there.
        let uris = self.output("apt-get", &["download", "--print-uris", package], &empty);
        let named = uris.and_then(|text| {
            let name = text.split_ascii_whitespace().nth(1).map(str::to_owned);
            name.with_context(|| format!("apt knows no package {package}; try `apt-get update`"))
        });
        let error = match named {
            Ok(name) => {
                let archive = debs.join(name);
                if archive.exists() {
                    return Ok(archive);
                }
                eprintln!("fetching {package}");
                match self.output("apt-get", &["download", package], &debs) {
                    Ok(_) if archive.exists() => return Ok(archive),
                    Ok(_) => anyhow::anyhow!("apt-get left no {}", archive.display()),
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        let kept = newest_file(&debs, &format!("{package}_"));
        let kept = kept.ok_or(error).with_context(|| format!("fetching the package {package}"))?;
        eprintln!("apt cannot fetch {package} now; taking {}", kept.display());
        Ok(kept)
    }

    fn output(&self, program: &str, arguments: &[&str], directory: &Path) -> Result<String> {
        let output = Command::new(program)
            .args(&self.apt_options)
            .args(arguments)
            .current_dir(directory)
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()
            .with_context(|| format!("running {program}; it is part of the package apt"))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            let reason =
                words.lines().find(|line| line.starts_with("E:")).unwrap_or("it gave no reason").to_owned();
            bail!("{program} {} failed: {reason}", arguments.join(" "));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The file that was written last among those whose name begins so.
fn newest_file(directory: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(directory).ok()?.flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    let newest = named.max_by_key(|entry| entry.metadata().and_then(|metadata| metadata.modified()).ok())?;
    Some(newest.path())
}
