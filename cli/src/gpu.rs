//! Choosing an adapter, describing it, and waiting for it.

use std::{
    path::{Path, PathBuf},
    pin::pin,
    task::{Context, Poll, Waker},
};

use anyhow::{Context as _, bail, ensure};
use clap::builder::NonEmptyStringValueParser;
use double_routing::{AdapterChoice, AdapterClass, Error, Gpu, Result, kernels::Tuning, wgpu};
use serde::Serialize;

use crate::{report, save};

/// What to do where no adapter is.
pub const WHERE_TO_GET_ONE: &str =
    "a graphics driver brings one; a software one is in Debian's and Ubuntu's package mesa-vulkan-drivers";

/// Which adapter to run on. Nothing given: the best one there is, or the CPU reference where there is none.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Selection {
    /// Part of an adapter's name, its number in the list of `adapters`, or `cpu` for the CPU reference
    #[arg(long, value_name = "NAME|INDEX|cpu", value_parser = NonEmptyStringValueParser::new())]
    adapter: Option<String>,
    /// Only adapters of this graphics API
    #[arg(long)]
    backend: Option<Backend>,
    /// Ask the adapter for WebGPU's default limits and no optional feature, as on the least of devices
    #[arg(long)]
    baseline: bool,
    /// Ask the adapter for wgpu's experimental cooperative matrices, which multiply f16 by f16 in a GPU's matrix units
    #[arg(long, conflicts_with = "baseline")]
    experimental: bool,
    /// Take the kernel configurations for another class of adapter, to check or to measure them
    #[arg(long)]
    class: Option<Class>,
    /// Tiles for products, as `tune` measured them on the adapter; where weights are packed once, the crate's own are taken
    #[arg(long, value_name = "FILE")]
    tuning: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Backend {
    Vulkan,
    Gl,
    Metal,
    Dx12,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Class {
    Software,
    Integrated,
    Discrete,
}

impl From<Class> for AdapterClass {
    fn from(class: Class) -> Self {
        match class {
            Class::Software => Self::Software,
            Class::Integrated => Self::Integrated,
            Class::Discrete => Self::Discrete,
        }
    }
}

impl From<Backend> for wgpu::Backends {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Vulkan => Self::VULKAN,
            Backend::Gl => Self::GL,
            Backend::Metal => Self::METAL,
            Backend::Dx12 => Self::DX12,
        }
    }
}

/// What a layer runs on.
#[derive(Debug, Clone)]
pub enum Target {
    Device(Gpu),
    Reference,
}

/// An adapter, or the CPU reference, as the reports show it.
#[derive(Debug, Clone, Serialize)]
pub struct Description {
    pub name: String,
    pub backend: String,
    pub kind: &'static str,
    pub driver: String,
}

impl Selection {
    /// Opens what was asked for.
    pub fn open(&self) -> anyhow::Result<Target> {
        if self.is_reference() {
            ensure!(self.backend.is_none(), "--adapter cpu has no --backend");
            ensure!(self.tuning.is_none(), "--adapter cpu has no --tuning");
            ensure!(!self.baseline, "--adapter cpu has no --baseline");
            ensure!(!self.experimental, "--adapter cpu has no --experimental");
            ensure!(self.class.is_none(), "--adapter cpu has no --class");
            return Ok(Target::Reference);
        }
        match self.open_device() {
            Ok(gpu) => Ok(Target::Device(self.tune(gpu)?)),
            Err(error @ (Error::NoAdapter(_) | Error::Device(_))) if self.is_default() => {
                report::note(&format!("no usable adapter ({error}), running on the CPU reference; {WHERE_TO_GET_ONE}"));
                Ok(Target::Reference)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The device with the class and the tuning that were given. What it cannot follow is refused: nothing that it computes would show it.
    pub fn tune(&self, gpu: Gpu) -> anyhow::Result<Gpu> {
        let name = &gpu.info().name;
        ensure!(
            !self.experimental || gpu.matrix_units().is_some(),
            "--experimental: {name} has no matrix units that these kernels can use"
        );
        let gpu = self.class.map_or(gpu.clone(), |class| gpu.with_class(class.into()));
        let Some(path) = &self.tuning else { return Ok(gpu) };
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let tuning: Tuning = text.parse().with_context(|| path.display().to_string())?;
        ensure!(tuning.suits(&gpu), "{}: {} can run none of its tiles", path.display(), gpu.info().name);
        Ok(gpu.with_tuning(tuning))
    }

    /// The file that is read, with the option that names it.
    pub fn read(&self) -> Option<(&str, &Path)> {
        self.tuning.as_deref().map(|path| ("--tuning", path))
    }

    /// Refuses a picture that would be written over what is read.
    pub fn apart_from(&self, picture: Option<&Path>) -> anyhow::Result<()> {
        let read: Vec<_> = self.read().into_iter().collect();
        let written: Vec<_> = picture.map(|path| ("--picture", path)).into_iter().collect();
        save::apart(&read, &written)
    }

    /// Whether the CPU reference was asked for.
    pub fn is_reference(&self) -> bool {
        self.adapter.as_deref().is_some_and(|adapter| adapter.eq_ignore_ascii_case("cpu"))
    }

    /// Whether the choice was left to the command.
    pub fn is_default(&self) -> bool {
        self.adapter.is_none() && self.backend.is_none()
    }

    /// Opens the chosen adapter.
    pub fn open_device(&self) -> Result<Gpu> {
        let mut choice = AdapterChoice::default();
        if let Some(backend) = self.backend {
            choice = choice.backends(backend.into());
        }
        if self.baseline {
            choice = choice.baseline();
        }
        if self.experimental {
            choice = choice.experimental();
        }
        let Some(adapter) = &self.adapter else { return pollster::block_on(Gpu::open(&choice)) };
        if let Ok(index) = adapter.parse() {
            match pollster::block_on(Gpu::open(&choice.clone().index(index))) {
                // A number may also be part of a name, as in `--adapter 4090`.
                Err(Error::NoAdapter(_)) => {}
                opened => return opened,
            }
        }
        pollster::block_on(Gpu::open(&choice.named(adapter)))
    }

    /// As [`Selection::open_device`], for what only an adapter can do: `refusal` says why the CPU reference cannot.
    pub fn open_adapter(&self, refusal: &'static str) -> anyhow::Result<Gpu> {
        ensure!(!self.is_reference(), refusal);
        match self.open_device() {
            Err(error @ Error::NoAdapter(_)) if self.is_default() => bail!("{error}; {WHERE_TO_GET_ONE}"),
            opened => self.tune(opened?),
        }
    }

    /// The options that make the same choice again.
    pub fn options(&self) -> String {
        let adapter = self.adapter.as_ref().map(|adapter| format!(" --adapter '{adapter}'"));
        let backend = self.backend.map(|backend| format!(" --backend {backend:?}").to_lowercase());
        let baseline = self.baseline.then(|| " --baseline".to_owned());
        let experimental = self.experimental.then(|| " --experimental".to_owned());
        let class = self.class.map(|class| format!(" --class {class:?}").to_lowercase());
        let tuning = self.tuning.as_ref().map(|path| format!(" --tuning '{}'", path.display()));
        [adapter, backend, baseline, experimental, class, tuning].into_iter().flatten().collect()
    }
}

impl Target {
    /// What it is, for reports.
    pub fn description(&self) -> Description {
        match self {
            Self::Device(gpu) => gpu.info().into(),
            Self::Reference => Description {
                name: "CPU reference".into(),
                backend: "cpu".into(),
                kind: "plain f64 loops",
                driver: String::new(),
            },
        }
    }
}

impl From<&wgpu::AdapterInfo> for Description {
    fn from(info: &wgpu::AdapterInfo) -> Self {
        let driver = [info.driver.as_str(), info.driver_info.as_str()].map(str::trim);
        Self {
            name: info.name.clone(),
            backend: info.backend.to_string(),
            kind: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => "discrete GPU",
                wgpu::DeviceType::IntegratedGpu => "integrated GPU",
                wgpu::DeviceType::VirtualGpu => "virtual GPU",
                wgpu::DeviceType::Cpu => "software",
                wgpu::DeviceType::Other => "of unknown kind",
            },
            driver: driver.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "),
        }
    }
}

impl std::fmt::Display for Description {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [&self.backend, self.kind, &self.driver];
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        write!(f, "{} · {}", self.name, parts.join(" · "))
    }
}

/// Waits for a future of the library, which never blocks: sleeps while the device works, then polls again.
pub fn wait<T>(gpu: &Gpu, future: impl Future<Output = Result<T>>) -> Result<T> {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return result;
        }
        gpu.device()
            .poll(wgpu::PollType::wait_indefinitely())
            .map_err(|error| Error::DeviceLost(gpu.lost().map_or_else(|| error.to_string(), String::from)))?;
    }
}
