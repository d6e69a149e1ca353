//! The ACPI tables: what tells Linux of the devices (ACPI 6.5, chapters 5 and 6; DSDT in AML).
//!
//! Not the hardware-reduced kind: Linux would then leave out the PIC and the PIT, and with them its ways of calibrating a
//! clock. Virtio devices are `LNRO0005`, the name that Linux's virtio-mmio driver knows.

use acpi_tables::aml::{
    self, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate,
};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};

use ft_devices::BoardSpec;
use ft_devices::chipset::{power, rtc};
use ft_devices::layout;
use ft_vcpu::GuestRam;

use super::BootError;
use super::memory::{self, ACPI_TABLES, HIGH_RAM};

const OEM: [u8; 6] = *b"FTVM  ";
const OEM_TABLE: [u8; 8] = *b"FTVMTABL";
const OEM_REVISION: u32 = 1;

/// FADT: ISA devices are there; no VGA; no message-signalled interrupts.
const BOOT_ARCHITECTURE: u16 = 1 | 1 << 2 | 1 << 3;
/// FADT: latencies that say that C2 and C3 are not there.
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

/// MADT: an 8259A pair is there too.
const DUAL_8259: u32 = 1;
/// MADT interrupt flags: active high (1) or as the bus says (0); edge (1 << 2), level (3 << 2).
const HIGH_EDGE: u16 = 0b0101;
const HIGH_LEVEL: u16 = 0b1101;

/// Writes all tables; gives the address of the RSDP.
pub(super) fn write(ram: &GuestRam, spec: &BoardSpec) -> Result<u64, BootError> {
    let mut tables = Tables { ram, next: ACPI_TABLES + Rsdp::len() as u64 };
    let dsdt = tables.put(&Whole(dsdt(spec)))?;
    let facs = tables.put(&FACS::new())?;
    let fadt = tables.put(&fadt(dsdt, facs))?;
    let madt = tables.put(&Whole(madt()))?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = tables.put(&xsdt)?;
    tables.write(ACPI_TABLES, &Rsdp::new(OEM, xsdt))?;
    Ok(ACPI_TABLES)
}

struct Tables<'a> {
    ram: &'a GuestRam,
    next: u64,
}

impl Tables<'_> {
    /// Writes a table behind the others, aligned as a FACS must be.
    fn put(&mut self, table: &dyn Aml) -> Result<u64, BootError> {
        let at = self.next.next_multiple_of(64);
        self.next = at + self.write(at, table)?;
        Ok(at)
    }

    fn write(&self, at: u64, table: &dyn Aml) -> Result<u64, BootError> {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        let size = bytes.len() as u64;
        if at + size > HIGH_RAM {
            return Err(BootError::Layout("the ACPI tables are too large".into()));
        }
        memory::write(self.ram, at, &bytes)?;
        Ok(size)
    }
}

/// A table that is whole as it is.
struct Whole(Sdt);

impl Aml for Whole {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(self.0.as_slice());
    }
}

fn fadt(dsdt: u64, facs: u64) -> acpi_tables::fadt::FADT {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .firmware_ctrl_32(facs as u32)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    fadt.dsdt = (dsdt as u32).into();
    fadt.sci_int = u16::from(power::SCI_IRQ).into();
    fadt.pm1a_evt_blk = u32::from(power::EVENT_PORT).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(power::CONTROL_PORT).into();
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_blk = u32::from(power::TIMER_PORT).into();
    fadt.pm_tmr_len = 4;
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = rtc::CENTURY;
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.reset_reg = GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, power::RESET_PORT.into());
    fadt.reset_value = power::RESET_VALUE;
    fadt.finalize()
}

fn madt() -> Sdt {
    let mut madt = Sdt::new(*b"APIC", 36, 5, OEM, OEM_TABLE, OEM_REVISION);
    let mut put = |bytes: &[u8]| madt.append_slice(bytes);
    put(&(layout::LAPIC_BASE as u32).to_le_bytes());
    put(&DUAL_8259.to_le_bytes());
    // The processor: ACPI id 0, APIC id 0, enabled.
    put(&[0, 8, 0, 0, 1, 0, 0, 0]);
    // The I/O APIC: id 0, from interrupt 0 on.
    let mut ioapic = vec![1, 12, 0, 0];
    ioapic.extend_from_slice(&(layout::IOAPIC_BASE as u32).to_le_bytes());
    ioapic.extend_from_slice(&[0; 4]);
    put(&ioapic);
    // ISA lines that are not on the pin of their number, or not edges.
    let mut source = |line: u8, pin: u8, flags: u16| {
        let [low, high] = flags.to_le_bytes();
        put(&[2, 10, 0, line, pin, 0, 0, 0, low, high]);
    };
    source(0, layout::TIMER_GSI, HIGH_EDGE);
    source(power::SCI_IRQ, power::SCI_IRQ, HIGH_LEVEL);
    // LINT1 is NMI, on every processor.
    put(&[4, 6, 0xff, 0, 0, 1]);
    madt
}

fn dsdt(spec: &BoardSpec) -> Sdt {
    let mut aml = Vec::new();
    for slot in 0..spec.slots() {
        virtio(&mut aml, slot);
    }
    isa(&mut aml, "_SB_.COM1", "PNP0501", layout::COM1_PORT, 8, layout::COM1_GSI);
    isa(&mut aml, "_SB_.RTC_", "PNP0B00", rtc::PORT, 2, rtc::IRQ);
    let (state, zero) = (power::SLEEP_S5, 0_u8);
    Name::new(aml::Path::new("_S5_"), &Package::new(vec![&state, &state, &zero, &zero]))
        .to_aml_bytes(&mut aml);
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM, OEM_TABLE, OEM_REVISION);
    dsdt.append_slice(&aml);
    dsdt
}

fn virtio(aml: &mut Vec<u8>, slot: usize) {
    let address = layout::virtio_address(slot) as u32;
    Device::new(
        aml::Path::new(&format!("_SB_.VIO{slot:X}")),
        vec![
            &Name::new(aml::Path::new("_HID"), &"LNRO0005"),
            &Name::new(aml::Path::new("_UID"), &(slot as u8)),
            &Name::new(
                aml::Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, address, layout::VIRTIO_STRIDE as u32),
                    &Interrupt::new(true, false, false, false, layout::virtio_gsi(slot).into()),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

fn isa(aml: &mut Vec<u8>, path: &str, id: &str, port: u16, ports: u8, line: u8) {
    Device::new(
        aml::Path::new(path),
        vec![
            &Name::new(aml::Path::new("_HID"), &EISAName::new(id)),
            &Name::new(aml::Path::new("_UID"), &aml::ZERO),
            &Name::new(
                aml::Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &IO::new(port, port, 1, ports),
                    &Interrupt::new(true, true, false, false, line.into()),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

#[cfg(test)]
mod tests {
    use ft_devices::DiskSpec;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    fn table(ram: &GuestRam, at: u64) -> Vec<u8> {
        let size: u32 = ram.read_obj(GuestAddress(at + 4)).unwrap();
        let mut bytes = vec![0; size as usize];
        ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn dword(bytes: &[u8], at: usize) -> u64 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()).into()
    }

    #[test]
    fn the_tables_lead_to_each_other_and_their_sums_are_zero() {
        let ram = ft_vcpu::memory::allocate(16 << 20).unwrap();
        let disks = vec![DiskSpec { sectors: 8, read_only: false }; 2];
        let rsdp = write(&ram, &BoardSpec { disks, ..BoardSpec::default() }).unwrap();
        let mut bytes = vec![0; Rsdp::len()];
        ram.read_slice(&mut bytes, GuestAddress(rsdp)).unwrap();
        assert_eq!((&bytes[..8], sum(&bytes), sum(&bytes[..20])), (&b"RSD PTR "[..], 0, 0));
        let xsdt = table(&ram, dword(&bytes, 24));
        assert_eq!((&xsdt[..4], sum(&xsdt), xsdt.len()), (&b"XSDT"[..], 0, 36 + 2 * 8));
        let fadt = table(&ram, dword(&xsdt, 36));
        assert_eq!((&fadt[..4], sum(&fadt)), (&b"FACP"[..], 0));
        let madt = table(&ram, dword(&xsdt, 44));
        assert_eq!((&madt[..4], sum(&madt)), (&b"APIC"[..], 0));
        let facs = dword(&fadt, 36);
        assert_eq!((&table(&ram, facs)[..4], facs % 64), (&b"FACS"[..], 0));
        let dsdt = table(&ram, dword(&fadt, 40));
        assert_eq!((&dsdt[..4], sum(&dsdt)), (&b"DSDT"[..], 0));
        let devices = dsdt.windows(8).filter(|window| window == b"LNRO0005").count();
        assert_eq!(devices, 2);
    }

    #[test]
    fn the_fadt_is_not_of_the_reduced_kind() {
        let mut bytes = Vec::new();
        fadt(0x1000, 0x2000).to_aml_bytes(&mut bytes);
        let flags = dword(&bytes, 112);
        assert_eq!(flags & (Flags::HwReducedAcpi as u64), 0);
        assert_eq!(
            (bytes[46], dword(&bytes, 56), dword(&bytes, 64), dword(&bytes, 76)),
            (9, 0x600, 0x604, 0x608)
        );
        // The reset register: an I/O port of one byte, and what to write there.
        assert_eq!(bytes[116..129], [1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0, 0x06]);
    }
}
