//! JPEG files to tensors: zune-jpeg, a bilinear resize that averages (as Pillow's does), ImageNet's normalisation, channels first.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use zune_core::bytestream::ZCursor;
use zune_jpeg::JpegDecoder;

const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

pub struct Decoder {
    resizer: Resizer,
    small: Image<'static>,
}

impl Decoder {
    /// shape: 3, height, width.
    pub fn new(shape: &[i64]) -> Self {
        let small = Image::new(shape[2] as u32, shape[1] as u32, PixelType::U8x3);
        Self { resizer: Resizer::new(), small }
    }

    /// Append the image's tensor; nothing where it is none.
    pub fn decode(&mut self, file: &[u8], to: &mut Vec<f32>) {
        let mut decoder = JpegDecoder::new(ZCursor::new(file));
        let Ok(pixels) = decoder.decode() else { return };
        let Some((width, height)) = decoder.dimensions() else { return };
        let Ok(large) = ImageRef::new(width as u32, height as u32, &pixels, PixelType::U8x3) else { return };
        let bilinear = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
        if self.resizer.resize(&large, &mut self.small, Some(&bilinear)).is_err() {
            return;
        }
        let small = self.small.buffer();
        for channel in 0..3 {
            let (scale, shift) = (1.0 / (255.0 * STD[channel]), MEAN[channel] / STD[channel]);
            to.extend(small.iter().skip(channel).step_by(3).map(|value| f32::from(*value) * scale - shift));
        }
    }
}
