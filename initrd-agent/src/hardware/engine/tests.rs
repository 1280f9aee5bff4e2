//! Whole probes of made-up machines.

use std::sync::Mutex;

use nix::errno::Errno;

use super::*;
use crate::hardware::catalog::Store;
use crate::hardware::catalog::fake::FakeStore;
use crate::hardware::uevent::fake::FakeEvents;
use crate::sys::modules::Inserted;

const INITRD_DEP: &str = "kernel/net/e1000.ko:\n\
    kernel/net/r8169.ko: kernel/net/mdio_devres.ko kernel/net/libphy.ko\n\
    kernel/net/mdio_devres.ko: kernel/net/libphy.ko\n\
    kernel/net/libphy.ko:\n\
    kernel/net/realtek.ko: kernel/net/libphy.ko\n\
    kernel/virtio/virtio_pci.ko:\n";
const INITRD_ALIAS: &str = "alias pci:v00008086d0000100Esv* e1000\n\
    alias pci:v000010ECd00008168sv* r8169\n\
    alias pci:v00001AF4d* virtio_pci\n\
    alias cpu:type:x86* libphy\n";
const STORE_DEP: &str = "kernel/ata/ahci.ko: kernel/ata/libahci.ko kernel/ata/libata.ko kernel/scsi/scsi_mod.ko\n\
    kernel/ata/libahci.ko: kernel/ata/libata.ko kernel/scsi/scsi_mod.ko\n\
    kernel/ata/libata.ko: kernel/scsi/scsi_mod.ko\n\
    kernel/scsi/scsi_mod.ko:\n\
    kernel/scsi/sd_mod.ko: kernel/scsi/scsi_mod.ko\n\
    kernel/net/e1000.ko:\n";
const STORE_ALIAS: &str = "alias pci:v00008086d00002922sv* ahci\n\
    alias scsi:t-0x00* sd_mod\n\
    alias pci:v00008086d0000100Esv* e1000\n\
    alias pci:v00001002d* radeon\n";

struct Machine {
    _directory: tempfile::TempDir,
    root: Root,
    loaded: Arc<Mutex<Vec<String>>>,
    announced: Arc<Mutex<Vec<String>>>,
}

impl Machine {
    fn new(command_line: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::fake(directory.path());
        std::fs::create_dir_all(root.at("proc/sys/kernel")).unwrap();
        std::fs::create_dir_all(root.at("sys/devices")).unwrap();
        std::fs::write(root.at("proc/sys/kernel/osrelease"), "6.1.0-test\n").unwrap();
        std::fs::write(root.at("proc/cmdline"), command_line).unwrap();
        let modules = root.modules("6.1.0-test");
        for (name, text) in [
            ("modules.dep", INITRD_DEP),
            ("modules.alias", INITRD_ALIAS),
            ("modules.softdep", "softdep r8169 pre: realtek\n"),
            ("modules.builtin", "kernel/virtio.ko\n"),
        ] {
            std::fs::create_dir_all(&modules).unwrap();
            std::fs::write(modules.join(name), text).unwrap();
        }
        for line in INITRD_DEP.lines() {
            let path = modules.join(line.split(':').next().unwrap());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "module").unwrap();
        }
        Self { _directory: directory, root, loaded: Arc::default(), announced: Arc::default() }
    }

    fn engine(&self, aliases: &[&str]) -> Engine {
        self.engine_of(FakeEvents::of(aliases))
    }

    fn engine_of(&self, events: FakeEvents) -> Engine {
        let (loaded, announced) = (self.loaded.clone(), self.announced.clone());
        let insert = move |module: &str, _: &[u8], parameters: &str| {
            loaded.lock().unwrap().push(format!("{module} {parameters}").trim().to_owned());
            if module == "virtio_pci" { Err(Errno::ENODEV) } else { Ok(Inserted::New) }
        };
        let announce = move |module: &str| announced.lock().unwrap().push(module.to_owned());
        Engine::start(self.root.clone(), Box::new(events), Arc::new(insert), Arc::new(announce)).unwrap()
    }

    fn loaded(&self) -> String {
        self.loaded.lock().unwrap().join(" ")
    }

    fn store(&self) -> (Box<dyn Catalog>, FakeStore) {
        let mut objects = FakeStore::default();
        let hash = objects.fill(STORE_DEP, STORE_ALIAS, &[], vec![]);
        let catalog = Store::open(&self.root, &hash, &objects).unwrap().catalog(&objects).unwrap();
        (Box::new(catalog), objects)
    }
}

fn soon() -> Terms<'static> {
    Terms::until(Instant::now() + Duration::from_secs(10))
}

#[test]
fn a_nic_gets_its_driver_and_all_that_the_driver_needs_in_order() {
    let machine = Machine::new("");
    let mut engine = machine.engine(&["pci:v000010ECd00008168sv00001043"]);
    let summary = engine.probe(soon()).unwrap();
    assert_eq!(machine.loaded(), "libphy mdio_devres realtek r8169");
    assert_eq!(summary.loaded, ["libphy", "mdio_devres", "r8169", "realtek"]);
    assert_eq!(*machine.announced.lock().unwrap(), ["libphy", "mdio_devres", "realtek", "r8169"]);
    assert_eq!(summary.devices, 1);
}

#[test]
fn two_equal_devices_load_one_driver_once_and_a_failure_is_named() {
    let machine = Machine::new("e1000.debug=3");
    let nic = "pci:v00008086d0000100Esv00001AF4";
    let mut engine = machine.engine(&[nic, nic, "pci:v00001AF4d00001000"]);
    let summary = engine.probe(soon()).unwrap();
    assert!(machine.loaded().contains("e1000 debug=3"));
    assert_eq!(summary.loaded, ["e1000"]);
    assert_eq!(summary.failed.len(), 1);
    assert_eq!(summary.failed[0].0, "virtio_pci");
}

#[test]
fn blacklisted_modules_and_processors_load_nothing() {
    let machine = Machine::new("modprobe.blacklist=e1000");
    let mut engine = machine.engine(&["pci:v00008086d0000100Esv00001AF4", "cpu:type:x86,ven0000"]);
    engine.probe(soon()).unwrap();
    assert_eq!(machine.loaded(), "");
}

#[test]
fn modules_of_an_earlier_agent_are_not_loaded_again() {
    let machine = Machine::new("");
    std::fs::create_dir_all(machine.root.at("sys/module/libphy")).unwrap();
    let mut engine = machine.engine(&["pci:v000010ECd00008168sv00001043"]);
    engine.probe(soon()).unwrap();
    assert_eq!(machine.loaded(), "mdio_devres realtek r8169");
}

#[test]
fn storage_comes_from_the_store_in_the_order_of_its_dependencies() {
    let machine = Machine::new("");
    let mut engine = machine.engine(&["pci:v00008086d00002922sv1", "scsi:t-0x00", "pci:v00001002d0000"]);
    let (catalog, objects) = machine.store();
    engine.use_catalog(catalog, &[]);
    let summary = engine.probe(Terms { objects: Some(&objects), ..soon() }).unwrap();
    let loaded = machine.loaded();
    let position = |name: &str| loaded.split(' ').position(|module| module == name).unwrap();
    assert!(position("scsi_mod") < position("libata"));
    assert!(position("libata") < position("libahci"));
    assert!(position("libahci") < position("ahci"));
    assert!(position("scsi_mod") < position("sd_mod"));
    assert_eq!(summary.not_in_bundle, ["radeon"]);
    engine.check_loaded(&["ahci", "scsi:t-0x00", "virtio"]).unwrap();
    assert!(engine.check_loaded(&["radeon"]).is_err());
}

#[test]
fn the_servers_deny_list_also_stops_what_would_need_the_module() {
    let machine = Machine::new("");
    let mut engine = machine.engine(&["pci:v00008086d00002922sv1", "scsi:t-0x00"]);
    let (catalog, objects) = machine.store();
    engine.use_catalog(catalog, &["libata".to_owned()]);
    let summary = engine.probe(Terms { objects: Some(&objects), ..soon() }).unwrap();
    assert_eq!(machine.loaded(), "scsi_mod sd_mod");
    assert_eq!(summary.failed, [("ahci".to_owned(), "libata is denied by the server".to_owned())]);
}

#[test]
fn lost_events_are_asked_for_again() {
    let machine = Machine::new("");
    std::fs::create_dir_all(machine.root.at("sys/devices/pci0000:00")).unwrap();
    let uevent = machine.root.at("sys/devices/pci0000:00/uevent");
    std::fs::write(&uevent, "").unwrap();
    let mut events = FakeEvents::default();
    events.waiting.push_back(Received::Overrun);
    let mut engine = machine.engine_of(events);
    engine.settle(soon()).unwrap();
    assert_eq!(std::fs::read_to_string(&uevent).unwrap(), "add");
}

#[test]
fn the_wait_ends_at_once_when_what_was_waited_for_is_there() {
    let machine = Machine::new("");
    let mut engine = machine.engine(&[]);
    let begun = Instant::now();
    engine.probe(Terms { found: &|| true, ..soon() }).unwrap();
    assert!(begun.elapsed() < Duration::from_millis(500));
}
