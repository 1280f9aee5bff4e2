//! `pxe-server disk-keys`: for whoever has to type one at a console.

use anyhow::Result;
use clap::Args;
use node_api::DiskKey;

use super::text::table;
use super::{AdminArguments, talk};

#[derive(Args)]
pub(super) struct DiskKeysArguments {
    /// Name of the node, as `pxe-server nodes` lists it
    #[arg(value_name = "NAME")]
    name: String,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArguments,
}

/// `pxe-server disk-keys`.
pub(super) fn disk_keys(arguments: &DiskKeysArguments) -> Result<()> {
    let path = format!("/v1/nodes/{}/disk-keys", arguments.name);
    let keys: Vec<DiskKey> = talk(&arguments.admin, async |admin| admin.get(&path).await)?;
    if arguments.json {
        println!("{}", serde_json::to_string(&keys)?);
    } else if keys.is_empty() {
        println!("the site's layout has no LUKS container");
    } else {
        let rows: Vec<Vec<String>> =
            keys.into_iter().map(|key| vec![key.name, key.secret.text().to_owned()]).collect();
        print!("{}", table(&["CONTAINER", "KEY"], &rows));
    }
    Ok(())
}
