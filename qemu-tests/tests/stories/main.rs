//! The VM stories.
use qemu_tests::net::Network;
use qemu_tests::session::Session;
use qemu_tests::*;
use std::time::Duration;
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    qemu_tests::session::sweep_on_signals()?;
    let session = Session::begin()?;
    let network = Network::new(&session)?;
    for (i, fw, nic) in [(1, FirmwareKind::Bios, Nic::E1000)] {
        let spec = MachineSpec {
            name: format!("m{i}"),
            firmware: fw,
            nic,
            mac: [0x52, 0x54, 0, 0x77, 0, i],
            memory_mib: 512,
            processors: 1,
            disks: vec![disk::DiskSpec { bus: Bus::Nvme, size_bytes: gib(1), serial: "x".into() }],
        };
        let m = Machine::new(spec, &session, &network)?;
        let t = std::time::Instant::now();
        m.power_on(&session, &network)?;
        println!("on after {:?}", t.elapsed());
        println!("{:?}", m.console().wait_for(&["net0:", "Start PXE"], Duration::from_secs(60)).await);
        println!("{:?}", t.elapsed());
        tokio::time::sleep(Duration::from_secs(3)).await;
        println!("{}", m.console().text());
        m.cut_power()?;
    }
    Ok(())
}
