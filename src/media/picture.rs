//! Pictures: what of a stranger's bytes is decoded, and how they are made smaller. Pure, and slow: not for async threads.
//!
//! The format is told by the bytes and never by what the uploader says; only formats with a decoder in safe Rust are
//! tried (PNG, JPEG, GIF, WebP), and none before its size is known to be bearable.

use std::io::Cursor;

use image::{
    AnimationDecoder as _, DynamicImage, Frame, ImageDecoder, ImageFormat, ImageReader, Limits,
    codecs::{
        gif::{GifDecoder, GifEncoder, Repeat},
        jpeg::JpegEncoder,
        webp::WebPDecoder,
    },
    imageops::FilterType,
};

use crate::MediaError;

/// The most pixels that are decoded, of all frames together.
const MAX_PIXELS: u64 = 50_000_000;
/// The longest side, in pixels.
const MAX_SIDE: u32 = 30_000;
/// The most memory that a decoder may take, in bytes.
const MAX_MEMORY: u64 = 512 * 1024 * 1024;
/// The most pictures of an animation.
const MAX_FRAMES: usize = 200;
/// Of 100.
const JPEG_QUALITY: u8 = 80;

/// How a picture is made smaller (client-server API, "Thumbnails").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Fill these sides and cut off the rest; otherwise fit into them.
    pub crop: bool,
    /// Keep it moving, if it does.
    pub animated: bool,
}

impl Wanted {
    pub(crate) fn bits(self) -> u8 {
        u8::from(self.crop) | u8::from(self.animated) << 1
    }
}

/// A smaller picture.
#[derive(Debug)]
pub(crate) struct Made {
    pub bytes: Vec<u8>,
    pub content_type: &'static str,
}

/// Whether something that says it is of this type can be a picture at all.
pub(crate) fn check(content_type: Option<&str>) -> Result<(), MediaError> {
    match content_type.is_some_and(|kind| kind.starts_with("image/")) {
        true => Ok(()),
        false => Err(MediaError::NoPicture),
    }
}

/// Width and height of a picture, as it is shown.
///
/// # Errors
/// [`MediaError::NoPicture`].
pub fn dimensions(bytes: &[u8]) -> Result<(u32, u32), MediaError> {
    let (width, height) = reader(bytes)?.1.into_dimensions().map_err(no_picture)?;
    Ok((width, height))
}

/// Type, width and height of a picture.
///
/// # Errors
/// [`MediaError::NoPicture`].
pub(crate) fn describe(bytes: &[u8]) -> Result<(&'static str, u32, u32), MediaError> {
    let format = reader(bytes)?.0;
    let (width, height) = dimensions(bytes)?;
    Ok((format.to_mime_type(), width, height))
}

/// Makes a picture smaller. `None` if it is no larger than what is wanted: it is never made larger.
pub(crate) fn thumbnail(bytes: &[u8], wanted: Wanted) -> Result<Option<Made>, MediaError> {
    let (format, reader) = reader(bytes)?;
    let (width, height) = reader.into_dimensions().map_err(no_picture)?;
    if width > MAX_SIDE || height > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(MediaError::TooManyPixels);
    }
    if wanted.animated
        && let Some(made) = animation(bytes, format, wanted, (width, height))?
    {
        return Ok(Some(made));
    }
    let mut decoder = self::reader(bytes)?.1.into_decoder().map_err(no_picture)?;
    let orientation = decoder.orientation().map_err(no_picture)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(no_picture)?;
    image.apply_orientation(orientation);
    let Some(image) = smaller(&image, wanted) else {
        return Ok(None);
    };
    encode(image, format).map(Some)
}

/// Bytes of a format that is tried.
type Readable<'a> = (ImageFormat, ImageReader<Cursor<&'a [u8]>>);

fn reader(bytes: &[u8]) -> Result<Readable<'_>, MediaError> {
    let format = image::guess_format(bytes).map_err(no_picture)?;
    if !matches!(
        format,
        ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::Gif | ImageFormat::WebP
    ) {
        return Err(MediaError::NoPicture);
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits());
    Ok((format, reader))
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_MEMORY);
    limits
}

fn no_picture(error: image::ImageError) -> MediaError {
    match error {
        image::ImageError::Limits(_) => MediaError::TooManyPixels,
        _ => MediaError::NoPicture,
    }
}

fn smaller(image: &DynamicImage, wanted: Wanted) -> Option<DynamicImage> {
    let Wanted { width, height, .. } = wanted;
    if wanted.crop {
        let larger = image.width() >= width && image.height() >= height;
        let same = image.width() == width && image.height() == height;
        (larger && !same).then(|| image.resize_to_fill(width, height, FilterType::CatmullRom))
    } else {
        let larger = image.width() > width || image.height() > height;
        larger.then(|| image.resize(width, height, FilterType::CatmullRom))
    }
}

/// What may be transparent stays PNG, what was a photograph stays one.
fn encode(image: DynamicImage, format: ImageFormat) -> Result<Made, MediaError> {
    let mut bytes = Vec::new();
    let photo =
        format == ImageFormat::Jpeg || format == ImageFormat::WebP && !image.color().has_alpha();
    if photo {
        let image = image.to_rgb8();
        JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
            .encode_image(&image)
            .map_err(no_picture)?;
    } else {
        image
            .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
            .map_err(no_picture)?;
    }
    Ok(Made {
        bytes,
        content_type: if photo { "image/jpeg" } else { "image/png" },
    })
}

/// A smaller animation, as GIF; none of what does not move, is small enough, or would be too much work.
fn animation(
    bytes: &[u8],
    format: ImageFormat,
    wanted: Wanted,
    (width, height): (u32, u32),
) -> Result<Option<Made>, MediaError> {
    let cursor = Cursor::new(bytes);
    let frames = match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(cursor).map_err(no_picture)?;
            decoder.set_limits(limits()).map_err(no_picture)?;
            decoder.into_frames()
        }
        ImageFormat::WebP => {
            let mut decoder = WebPDecoder::new(cursor).map_err(no_picture)?;
            decoder.set_limits(limits()).map_err(no_picture)?;
            if !decoder.has_animation() {
                return Ok(None);
            }
            decoder.into_frames()
        }
        _ => return Ok(None),
    };
    let each = u64::from(width) * u64::from(height);
    let affordable = usize::try_from(MAX_PIXELS / each.max(1)).unwrap_or(usize::MAX);
    let most = MAX_FRAMES.min(affordable);
    let mut small = Vec::new();
    for frame in frames {
        let frame = frame.map_err(no_picture)?;
        if small.len() == most {
            return Ok(None);
        }
        let delay = frame.delay();
        let image = DynamicImage::ImageRgba8(frame.into_buffer());
        let Some(image) = smaller(&image, wanted) else {
            return Ok(None);
        };
        small.push(Frame::from_parts(image.into_rgba8(), 0, 0, delay));
    }
    if small.len() < 2 {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut bytes, 10);
    encoder
        .set_repeat(Repeat::Infinite)
        .and_then(|()| encoder.encode_frames(small))
        .map_err(no_picture)?;
    drop(encoder);
    Ok(Some(Made {
        bytes,
        content_type: "image/gif",
    }))
}

#[cfg(test)]
mod tests {
    use image::{Delay, Rgba, RgbaImage};

    use super::*;

    fn picture(width: u32, height: u32) -> RgbaImage {
        RgbaImage::from_fn(width, height, |x, y| {
            Rgba([(x % 256) as u8, (y % 256) as u8, 7, 255])
        })
    }

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        DynamicImage::ImageRgba8(picture(width, height))
            .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
            .unwrap();
        bytes
    }

    fn wanted(width: u32, height: u32, crop: bool) -> Wanted {
        Wanted {
            width,
            height,
            crop,
            animated: false,
        }
    }

    #[test]
    fn scaling_keeps_the_ratio_and_cropping_the_size() {
        let original = png(200, 100);
        for (wanted, expected) in [
            (wanted(32, 32, false), Some((32, 16))),
            (wanted(32, 32, true), Some((32, 32))),
            (wanted(320, 240, false), None),
            (wanted(96, 120, true), None),
        ] {
            let made = thumbnail(&original, wanted).unwrap();
            let size = made.map(|made| dimensions(&made.bytes).unwrap());
            assert_eq!(size, expected, "{wanted:?}");
        }
    }

    #[test]
    fn a_file_is_what_its_bytes_say_and_only_so_large() {
        for bytes in [
            &b""[..],
            b"hello",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"BM\0\0\0\0",
        ] {
            let refused = thumbnail(bytes, wanted(32, 32, false));
            assert!(matches!(refused, Err(MediaError::NoPicture)), "{bytes:?}");
        }
        // A header that promises 60,000 pixels each way.
        let mut huge = png(200, 100);
        huge[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
        let refused = thumbnail(&huge, wanted(32, 32, false));
        assert!(matches!(
            refused,
            Err(MediaError::TooManyPixels | MediaError::NoPicture)
        ));
        let mut cut = png(200, 100);
        cut.truncate(100);
        assert!(thumbnail(&cut, wanted(32, 32, false)).is_err());
    }

    #[test]
    fn what_moves_goes_on_moving_only_where_that_is_wanted() {
        let mut bytes = Vec::new();
        let delay = Delay::from_numer_denom_ms(100, 1);
        let frames = [(); 3].map(|()| Frame::from_parts(picture(100, 100), 0, 0, delay));
        GifEncoder::new(&mut bytes).encode_frames(frames).unwrap();
        let still = thumbnail(&bytes, wanted(32, 32, false)).unwrap().unwrap();
        assert_eq!(still.content_type, "image/png");
        let moving = Wanted {
            animated: true,
            ..wanted(32, 32, false)
        };
        let moving = thumbnail(&bytes, moving).unwrap().unwrap();
        assert_eq!(moving.content_type, "image/gif");
        let frames = GifDecoder::new(Cursor::new(&moving.bytes)).unwrap();
        assert_eq!(frames.into_frames().count(), 3);
    }
}
