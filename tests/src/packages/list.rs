//! Every package by name: the only place that knows them.

/// Installed on the machine when one of its programs is missing.
pub(super) const INSTALLED: &[Installed] = &[
    Installed { package: "qemu-system-x86", program: "qemu-system-x86_64" },
    Installed { package: "erofs-utils", program: "mkfs.erofs" },
    Installed { package: "e2fsprogs", program: "mkfs.ext4" },
    Installed { package: "iproute2", program: "ip" },
    Installed { package: "nftables", program: "nft" },
    Installed { package: "util-linux", program: "nsenter" },
    Installed { package: "cpio", program: "cpio" },
    Installed { package: "curl", program: "curl" },
    Installed { package: "gnupg", program: "gpg" },
    Installed { package: "openssl", program: "openssl" },
    Installed { package: "kmod", program: "depmod" },
    // libFuzzer comes as C++.
    Installed { package: "g++", program: "g++" },
    // Without `venv` a machine's own Python cannot keep another program's packages apart.
    Installed { package: "python3-venv", program: "python3" },
];

/// A package that must be at its own place.
pub(super) struct Installed {
    /// Its name.
    pub package: &'static str,
    /// A program by which it is found on a machine that has it.
    pub program: &'static str,
}

/// A Debian release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Debian 12.
    Bookworm,
    /// What was added to Debian 12 later.
    BookwormBackports,
    /// Debian 13.
    Trixie,
    /// The rolling release: what is there changes.
    Sid,
}

impl Suite {
    /// Its name in a source list.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::BookwormBackports => "bookworm-backports",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }
}

/// A package that is unpacked into the cache and never installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpacked {
    /// containerd 1.6 with `ctr` and runc's shim.
    Containerd16,
    /// containerd 1.7.
    Containerd17,
    /// containerd 2.
    Containerd2,
    /// runc 1.1: the runtime that the tests compare with. Newer ones need a newer C library.
    Runc,
    /// The CNI plugins.
    CniPlugins,
    /// A static busybox for the images.
    Busybox,
    /// gVisor, for the benchmark.
    Runsc,
    /// `mkfs.erofs` that reads a tar archive, which containerd's EROFS snapshotter needs.
    ErofsUtils,
    /// The C library that it was built for, with its loader.
    Libc,
    /// A library of its own.
    Libdeflate,
    /// A kernel with KVM for AMD's processors, for the nested machine.
    LabKernel,
    /// OVMF of Debian 12.
    Ovmf12,
    /// OVMF of Debian 13.
    Ovmf13,
    /// cosign, which image signatures are judged beside.
    Cosign,
    /// notation, likewise.
    Notation,
    /// skopeo, likewise for simple signing.
    Skopeo,
    /// A library that it needs, which asks GnuPG.
    Gpgme,
    /// Another.
    Devmapper,
    /// A registry that both talk to.
    DockerRegistry,
    /// OVMF in the build that takes hashes of a kernel.
    OvmfAmdSev,
    /// A token in software, as a PKCS#11 module.
    SoftHsm,
    /// What makes such tokens.
    SoftHsmUtil,
    /// PostgreSQL's server.
    Postgres,
    /// Its own library.
    Libpq,
    /// A library that it needs.
    Libxml2,
    /// One that both need.
    Libicu,
    /// OVMF in the build for trust domains.
    OvmfIntelTdx,
    /// A kernel as an EFI program, with a signature.
    CloudKernel,
}

impl Unpacked {
    /// The package's name and the release that it is taken from.
    pub(super) fn source(self) -> (&'static str, Suite) {
        match self {
            Self::Containerd16 => ("containerd", Suite::Bookworm),
            Self::Containerd17 => ("containerd", Suite::Trixie),
            Self::Containerd2 => ("containerd", Suite::Sid),
            Self::Runc => ("runc", Suite::Bookworm),
            Self::CniPlugins => ("containernetworking-plugins", Suite::Bookworm),
            Self::Busybox => ("busybox-static", Suite::Bookworm),
            Self::Runsc => ("runsc", Suite::BookwormBackports),
            Self::ErofsUtils => ("erofs-utils", Suite::Trixie),
            Self::Libc => ("libc6", Suite::Trixie),
            Self::Libdeflate => ("libdeflate0", Suite::Trixie),
            Self::LabKernel => ("linux-image-amd64", Suite::Bookworm),
            Self::Ovmf12 => ("ovmf", Suite::Bookworm),
            Self::Ovmf13 => ("ovmf", Suite::Trixie),
            Self::Cosign => ("cosign", Suite::Sid),
            Self::Notation => ("notation", Suite::Sid),
            Self::Skopeo => ("skopeo", Suite::Bookworm),
            Self::Gpgme => ("libgpgme11", Suite::Bookworm),
            Self::Devmapper => ("libdevmapper1.02.1", Suite::Bookworm),
            Self::DockerRegistry => ("docker-registry", Suite::Sid),
            Self::OvmfAmdSev => ("ovmf-amdsev", Suite::Sid),
            Self::SoftHsm => ("libsofthsm2", Suite::Bookworm),
            Self::SoftHsmUtil => ("softhsm2", Suite::Bookworm),
            Self::Postgres => ("postgresql-15", Suite::Bookworm),
            Self::Libpq => ("libpq5", Suite::Bookworm),
            Self::Libxml2 => ("libxml2", Suite::Bookworm),
            Self::Libicu => ("libicu72", Suite::Bookworm),
            Self::OvmfIntelTdx => ("ovmf-inteltdx", Suite::Sid),
            Self::CloudKernel => ("linux-image-cloud-amd64", Suite::Trixie),
        }
    }

    /// How the name of the package begins that stands behind one which is empty and only depends on it.
    pub(super) fn behind(self) -> Option<&'static str> {
        match self {
            Self::LabKernel | Self::CloudKernel => Some("linux-image-"),
            _ => None,
        }
    }
}
