//! Where the programs under test are.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Rust target of the static agent.
const AGENT_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The built programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `pxe-server`, release build.
    pub pxe_server: PathBuf,
    /// `image-tools`, release build.
    pub image_tools: PathBuf,
    /// `initrd-agent`, static build with the profile `agent`.
    pub agent: PathBuf,
}

impl Programs {
    /// Finds them in the workspace's target directory (`CARGO_TARGET_DIR` where set).
    ///
    /// # Errors
    /// One of them has not been built.
    pub fn find() -> Result<Self> {
        let programs = Self::find_peers()?;
        built(&programs.agent)?;
        Ok(programs)
    }

    /// The same without asking for the agent: for the swarm, the other two are enough.
    ///
    /// # Errors
    /// One of the two has not been built.
    pub fn find_peers() -> Result<Self> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."));
        let given = std::env::var_os("CARGO_TARGET_DIR").map(|dir| workspace.join(dir));
        let target = given.unwrap_or_else(|| workspace.join("target"));
        let programs = Self {
            pxe_server: target.join("release/pxe-server"),
            image_tools: target.join("release/image-tools"),
            agent: target.join(AGENT_TARGET).join("agent/initrd-agent"),
        };
        built(&programs.pxe_server)?;
        built(&programs.image_tools)?;
        Ok(programs)
    }
}

fn built(program: &Path) -> Result<()> {
    if !program.is_file() {
        bail!("{} has not been built; run scripts/build first", program.display());
    }
    Ok(())
}
