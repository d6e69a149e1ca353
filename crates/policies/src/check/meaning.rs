//! What the values of a whole configuration mean together.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::Check;
use super::network::Places;
use crate::config::{Config, Console, ConsoleInput, ConsoleOutput, Disk, Kernel, ReplicaId, Vm};
use crate::detector;
use crate::logging;
use crate::output::{Output, OutputRule};
use crate::pacing;
use crate::schema::tables::{self, Root};
use crate::tie_breaker::{self, TieBreakerKind};

/// Resolves what there is; the result counts only if `check` found nothing wrong.
pub(super) fn resolve(root: Root, path: &Path, check: &mut Check) -> Config {
    let Root { vm, console, disk, replicas, net, logging, output, detector, tie_breaker, pacing } = root;
    let mut uses = Vec::new();

    let vm_table = vm.unwrap_or_default();
    let kernel_span = vm_table.kernel.as_ref().map(|at| at.span());
    let vm: Vm = check.vm(vm_table);
    if let (Kernel::File(path), Some(span)) = (&vm.kernel, kernel_span) {
        uses.push((path.clone(), span, "the kernel".to_owned()));
    }

    let shared_disk_span = check.keys.get("tie-breaker.shared-disk").cloned();
    let tie_span = match &tie_breaker {
        Some(tie_breaker::Table::SharedDisk(table)) => table.path.as_ref().map(|at| at.span()),
        Some(tie_breaker::Table::Manual(table)) => table.path.as_ref().map(|at| at.span()),
        _ => None,
    };
    let replicas_table = replicas.unwrap_or_default();
    let hosts = check.hosts(&replicas_table);
    let witness_key = match &tie_breaker {
        Some(tie_breaker::Table::Witness(table)) => table.key.as_ref().map(|at| (check.path(at), at.span())),
        _ => None,
    };
    let key = replicas_table.key.as_ref().map(|at| (check.path(at), at.span()));
    match (witness_key, key) {
        (Some((witness, _)), Some((path, span))) if same_file(&witness, &path) => {
            uses.push((path, span, "the pair's key".to_owned()));
        }
        (witness, replicas) => {
            uses.extend(witness.map(|(path, span)| (path, span, "the witness's key".to_owned())));
            uses.extend(replicas.map(|(path, span)| (path, span, "the replicas' key".to_owned())));
        }
    }
    let places = tie_breaker.as_ref().and_then(|table| places(table, check));
    if let Some(places) = &places {
        check.tie_breaker(places, &hosts);
    }
    let tie_breaker = tie_breaker::Table::resolve(tie_breaker, &vm.name, check);

    let rule = output.and_then(|table| table.rule);
    // The first shared disk that the guest writes.
    let mut written: Option<Range<usize>> = None;
    let mut disks = Vec::new();
    for (index, table) in disk.unwrap_or_default().into_iter().enumerate() {
        let span = table.path.as_ref().map(|at| at.span());
        let separate = table.sharing.as_deref() == Some(&tables::Sharing::Separate);
        separate_with_shared_register(&table, shared_disk_span.as_ref(), check);
        let resolved: Disk = check.disk(table, &hosts);
        if let Some(span) = span {
            if !resolved.read_only && !separate {
                written.get_or_insert_with(|| span.clone());
            }
            for (path, whose) in files(&resolved) {
                uses.push((path, span.clone(), format!("disk {index}{whose}")));
            }
        }
        disks.push(resolved);
    }
    if let (Some(rule), Some(disk)) = (&rule, written)
        && **rule == OutputRule::None
    {
        unsafe_rule(rule.span(), disk, check);
    }

    let (output, input) = console.map_or((None, None), |table| (table.output, table.input));
    let input = match input.as_deref() {
        Some(tables::ConsoleInput::Keys) => ConsoleInput::Keys,
        Some(tables::ConsoleInput::Lines) | None => ConsoleInput::Lines,
    };
    let output = match output {
        Some(at) if at.value().0 != "-" => {
            let path = check.path(&at);
            uses.push((path.clone(), at.span(), "the console output".to_owned()));
            ConsoleOutput::File(path)
        }
        _ => ConsoleOutput::Stdout,
    };
    if let (TieBreakerKind::SharedDisk { path } | TieBreakerKind::Manual { path }, Some(span)) =
        (&tie_breaker, tie_span)
    {
        uses.push((path.clone(), span, "the tie-breaker".to_owned()));
    }
    check.distinct(&uses);

    let nets_table = net.unwrap_or_default();
    check.ports(&replicas_table, places.as_ref(), &nets_table);
    let nets = check.nets(nets_table, &hosts, &vm.name);
    Config {
        path: path.to_owned(),
        vm,
        console: Console { output, input },
        disks,
        nets,
        replicas: check.replicas(replicas_table),
        logging: logging::Table::resolve(logging.unwrap_or_default(), check),
        output: Output { rule: rule.map_or_else(OutputRule::default, |at| at.into_inner()) },
        detector: detector::Table::resolve(detector, check),
        tie_breaker,
        pacing: pacing::Table::resolve(pacing, check),
    }
}

/// One key may be both the replicas' and the witness's.
fn same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real(one) == real(other)
}

/// Where a tie-breaker on the network is.
fn places(table: &tie_breaker::Table, check: &mut Check) -> Option<Places> {
    match table {
        tie_breaker::Table::Witness(table) => Some(Places {
            what: "the witness",
            one: "a witness",
            advice: "use the address of a third host",
            addresses: table.address.iter().cloned().collect(),
        }),
        tie_breaker::Table::Etcd(table) => Some(Places {
            what: "an etcd member",
            one: "an etcd",
            advice: "use addresses that both hosts reach",
            addresses: check.etcd(table),
        }),
        tie_breaker::Table::SharedDisk(_) | tie_breaker::Table::Manual(_) => None,
    }
}

/// The files of a disk, and whose each is where there are several.
fn files(disk: &Disk) -> Vec<(PathBuf, &'static str)> {
    let owners = [
        (Some(ReplicaId::A), " of replica a"),
        (Some(ReplicaId::B), " of replica b"),
        (None, " of a machine without fault tolerance"),
    ];
    let mut files: Vec<_> = owners.map(|(replica, whose)| (disk.path_of(replica), whose)).into();
    files.dedup_by(|one, other| one.0 == other.0);
    match files.as_slice() {
        [(path, _)] => vec![(path.clone(), "")],
        _ => files,
    }
}

/// Separate disks outlive the loss of any one store; a register on one of them does not.
fn separate_with_shared_register(disk: &tables::Disk, register: Option<&Range<usize>>, check: &mut Check) {
    if let (Some(at), Some(register)) = (&disk.sharing, register)
        && **at == tables::Sharing::Separate
    {
        check.error_with(
            at.span(),
            "separate disks cannot go with the shared-disk tie-breaker",
            "each replica has a disk of its own",
            "a register beside one copy is lost with it, and the other replica could not ask: use [tie-breaker.witness] or \
             [tie-breaker.etcd], or sharing = \"shared\"",
            (register.clone(), "this needs a file system that both replicas reach".into()),
        );
    }
}

/// Without the Output Rule nobody knows which writes of a lost primary may still land on a disk that both use.
fn unsafe_rule(rule: Range<usize>, disk: Range<usize>, check: &mut Check) {
    check.error_with(
        rule,
        "output.rule = \"none\" cannot go with a shared disk that the guest writes",
        "writes would reach the disk before the backup knows of them",
        "after a failover the new primary could not tell which writes of the old one may still land; use rule = \"commit\", or \
         make the disk read-only",
        (disk, "the guest writes this disk".into()),
    );
}
