//! The app's own drawing: sentences as cells over a scene, and the heat behind them. It knows of the layer only the two
//! tensors it shows.

use std::{fs::File, io::BufWriter, path::Path};

use double_routing::{Tensor, bytemuck, wgpu};
use wgpu::util::DeviceExt as _;

const WIDTH: u32 = 1280;
const HEIGHT: u32 = 800;
const MARGIN: f32 = 64.0;
const FORMAT: wgpu::TextureFormat = wgpu::TextureFormat::Rgba8Unorm;

/// A rectangle with a glyph or two, as the shaders read it.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Cell {
    /// Left, top, width and height in pixels.
    area: [f32; 4],
    /// 16 rows of 16 pixels, two rows to a word.
    glyph: [u32; 8],
    /// Columns of the glyph, pixels of the picture for one of it, lightness.
    style: [f32; 3],
    /// What its background shows: see [`plain`] and what follows it.
    shows: [u32; 4],
}

/// Nothing.
const PLAIN: [u32; 4] = [0; 4];

/// The routing weight of a token, in multiples of the even share among so many.
fn token(index: usize, count: usize) -> [u32; 4] {
    [1, index as u32, count as u32, 0]
}

/// How probable a language is for the tokens from `first` on.
fn language(first: usize, count: usize, language: usize) -> [u32; 4] {
    [2, first as u32, count as u32, language as u32]
}

/// A weight in hundredths of the even share.
fn legend(hundredths: u32) -> [u32; 4] {
    [3, hundredths, 0, 0]
}

impl Cell {
    fn new(place: [f32; 2], [width, height]: [f32; 2], text: &str, pixel: f32, shows: [u32; 4]) -> Self {
        let (mut glyph, mut columns) = ([0; 8], 0);
        for found in text.chars().filter_map(unifont::get_glyph) {
            for (y, x) in (0..16).flat_map(|y| (0..found.get_width()).map(move |x| (y, x))) {
                glyph[y / 2] |= u32::from(found.get_pixel(x, y)) << (15 - columns - x + 16 * (y % 2));
            }
            columns += found.get_width();
        }
        let style = [columns as f32, pixel, if pixel > 1.0 { 1.0 } else { 0.65 }];
        Self { area: [place[0], place[1], width, height], glyph, style, shows }
    }

    fn caption(place: [f32; 2], text: &str) -> impl Iterator<Item = Self> {
        text.chars().enumerate().map(move |(at, glyph)| {
            let place = [place[0] + 8.0 * at as f32, place[1]];
            Self::new(place, [8.0, 16.0], &glyph.to_string(), 1.0, PLAIN)
        })
    }
}

fn lay_out(sentences: &[&str], languages: &[String], longest: usize) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (row, sentence) in sentences.iter().enumerate() {
        let (top, first, count) = (56.0 + 80.0 * row as f32, row * longest, sentence.chars().count());
        let mut left = MARGIN;
        for (at, character) in sentence.chars().enumerate() {
            let width = unifont::get_glyph(character).map_or(18.0, |glyph| 2.0 + 2.0 * glyph.get_width() as f32);
            cells.push(Cell::new([left, top], [width, 40.0], &character.to_string(), 2.0, token(first + at, count)));
            left += width;
        }
        for (at, label) in languages.iter().enumerate() {
            let place = [MARGIN + 28.0 * at as f32, top + 44.0];
            let text = label.get(..2).unwrap_or(label);
            cells.push(Cell::new(place, [26.0, 18.0], text, 1.0, language(first, count, at)));
        }
    }
    let top = HEIGHT as f32 - 80.0;
    let title = "First level: a character's routing weight, in multiples of an even share";
    cells.extend(Cell::caption([MARGIN, top], title));
    for (at, (label, hundredths)) in [("½", 50), ("1", 100), ("2", 200), ("4", 400), ("8", 800)].into_iter().enumerate()
    {
        let place = [MARGIN + 8.0 * (title.len() + 2) as f32 + 34.0 * at as f32, top - 4.0];
        cells.push(Cell::new(place, [32.0, 24.0], label, 1.0, legend(hundredths)));
    }
    let title = "Second level: the language that the characters' paths add up to, below each sentence";
    cells.extend(Cell::caption([MARGIN, top + 28.0], title));
    cells
}

/// What the app draws with.
pub struct Picture {
    target: wgpu::Texture,
    view: wgpu::TextureView,
    cells: wgpu::Buffer,
    count: u32,
    sky: wgpu::RenderPipeline,
    glyphs: wgpu::RenderPipeline,
    heat: wgpu::RenderPipeline,
    results: wgpu::BindGroup,
}

impl Picture {
    /// `w` is `[sentences, tokens, 1]`, `y` `[sentences, tokens, languages]`.
    pub fn new(
        device: &wgpu::Device,
        sentences: &[&str],
        languages: &[String],
        w: &Tensor<'_>,
        y: &Tensor<'_>,
    ) -> Self {
        let target = device.create_texture(&wgpu::TextureDescriptor {
            label: Some("picture"),
            size: wgpu::Extent3d { width: WIDTH, height: HEIGHT, depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: FORMAT,
            usage: wgpu::TextureUsages::RENDER_ATTACHMENT | wgpu::TextureUsages::COPY_SRC,
            view_formats: &[],
        });
        let cells = lay_out(sentences, languages, w.shape()[1]);
        let module = device.create_shader_module(wgpu::include_wgsl!("scene.wgsl"));
        let pipeline = |vertex, fragment, blend| pipeline(device, &module, vertex, fragment, blend, languages.len());
        // Glyphs are laid over the scene; heat multiplies what is there by its alpha and adds its colour.
        let glyphs = pipeline("cell", "glyphs", Some(wgpu::BlendState::ALPHA_BLENDING));
        let color = wgpu::BlendComponent {
            src_factor: wgpu::BlendFactor::One,
            dst_factor: wgpu::BlendFactor::SrcAlpha,
            operation: wgpu::BlendOperation::Add,
        };
        let heat = pipeline("cell", "heat", Some(wgpu::BlendState { color, alpha: wgpu::BlendComponent::OVER }));
        let results = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("results"),
            layout: &heat.get_bind_group_layout(0),
            entries: &[bind(0, w), bind(1, y)],
        });
        Self {
            view: target.create_view(&Default::default()),
            target,
            cells: device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: Some("cells"),
                contents: bytemuck::cast_slice(&cells),
                usage: wgpu::BufferUsages::VERTEX,
            }),
            count: cells.len() as u32,
            sky: pipeline("everywhere", "sky", None),
            glyphs,
            heat,
            results,
        }
    }

    pub fn draw_scene(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = self.pass(encoder, wgpu::LoadOp::Clear(wgpu::Color::BLACK));
        pass.set_pipeline(&self.sky);
        pass.draw(0..4, 0..1);
        pass.set_pipeline(&self.glyphs);
        pass.draw(0..4, 0..self.count);
    }

    pub fn draw_heat(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = self.pass(encoder, wgpu::LoadOp::Load);
        pass.set_pipeline(&self.heat);
        pass.set_bind_group(0, &self.results, &[]);
        pass.draw(0..4, 0..self.count);
    }

    fn pass<'a>(&self, encoder: &'a mut wgpu::CommandEncoder, load: wgpu::LoadOp<wgpu::Color>) -> wgpu::RenderPass<'a> {
        let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
            color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                view: &self.view,
                depth_slice: None,
                resolve_target: None,
                ops: wgpu::Operations { load, store: wgpu::StoreOp::Store },
            })],
            ..Default::default()
        });
        pass.set_vertex_buffer(0, self.cells.slice(..));
        pass
    }

    /// Records a copy of the picture to a buffer that can be mapped.
    pub fn copy(&self, device: &wgpu::Device, encoder: &mut wgpu::CommandEncoder) -> wgpu::Buffer {
        const { assert!((4 * WIDTH).is_multiple_of(wgpu::COPY_BYTES_PER_ROW_ALIGNMENT)) };
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("picture"),
            size: u64::from(4 * WIDTH * HEIGHT),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(4 * WIDTH), rows_per_image: None };
        let to = wgpu::TexelCopyBufferInfo { buffer: &buffer, layout };
        encoder.copy_texture_to_buffer(self.target.as_image_copy(), to, self.target.size());
        buffer
    }
}

/// A pipeline of the scene's module.
fn pipeline(
    device: &wgpu::Device,
    module: &wgpu::ShaderModule,
    vertex: &str,
    fragment: &str,
    blend: Option<wgpu::BlendState>,
    languages: usize,
) -> wgpu::RenderPipeline {
    let constants = [("WIDTH", WIDTH.into()), ("HEIGHT", HEIGHT.into()), ("LANGUAGES", languages as f64)];
    let compilation_options = wgpu::PipelineCompilationOptions { constants: &constants, ..Default::default() };
    device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
        label: Some(fragment),
        layout: None,
        vertex: wgpu::VertexState {
            module,
            entry_point: Some(vertex),
            compilation_options: compilation_options.clone(),
            buffers: &[Some(wgpu::VertexBufferLayout {
                array_stride: size_of::<Cell>() as u64,
                step_mode: wgpu::VertexStepMode::Instance,
                attributes: &wgpu::vertex_attr_array![
                    0 => Float32x4, 1 => Uint32x4, 2 => Uint32x4, 3 => Float32x3, 4 => Uint32x4
                ],
            })],
        },
        primitive: wgpu::PrimitiveState { topology: wgpu::PrimitiveTopology::TriangleStrip, ..Default::default() },
        depth_stencil: None,
        multisample: wgpu::MultisampleState::default(),
        fragment: Some(wgpu::FragmentState {
            module,
            entry_point: Some(fragment),
            compilation_options,
            targets: &[Some(wgpu::ColorTargetState { format: FORMAT, blend, write_mask: wgpu::ColorWrites::ALL })],
        }),
        multiview_mask: None,
        cache: None,
    })
}

/// A result of the layer, bound where it lies.
fn bind<'a>(binding: u32, tensor: &Tensor<'a>) -> wgpu::BindGroupEntry<'a> {
    let (buffer, offset) = (tensor.buffer(), tensor.byte_offset());
    let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: None });
    wgpu::BindGroupEntry { binding, resource }
}

/// Writes the copied picture as a PNG.
pub fn save(path: &Path, pixels: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), WIDTH, HEIGHT);
    encoder.set_color(png::ColorType::Rgba);
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(())
}
