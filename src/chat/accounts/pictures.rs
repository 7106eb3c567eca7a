//! The picture in a data URL, as a file. Only its bytes say what it is.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;

use crate::domain::{
    account::{PICTURE_FILE_BYTES_MAX, PictureKind},
    reject::{Code, Reject},
};

pub fn parse(data_url: &str) -> Result<(PictureKind, Bytes), Reject> {
    let wrong = || bad("the picture is no data URL: send data:image/png;base64,... or the like");
    let head = data_url.get(..11).unwrap_or_default();
    if !head.eq_ignore_ascii_case("data:image/") {
        return Err(wrong());
    }
    let (_, encoded) = data_url.split_once(";base64,").ok_or_else(wrong)?;
    if encoded.len() / 4 * 3 > PICTURE_FILE_BYTES_MAX + 2 {
        return Err(too_large());
    }
    let file = STANDARD.decode(encoded).map_err(|_no_base64| wrong())?;
    if file.len() > PICTURE_FILE_BYTES_MAX {
        return Err(too_large());
    }
    let kind = PictureKind::of(&file);
    let kind = kind.ok_or_else(|| bad("the picture is no PNG, JPEG, GIF or WebP file"))?;
    Ok((kind, file.into()))
}

fn bad(why: &str) -> Reject {
    Reject::new(Code::BadRequest, why)
}

fn too_large() -> Reject {
    let why = format!("the picture has more than {PICTURE_FILE_BYTES_MAX} bytes");
    Reject::new(Code::TooLarge, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_url(kind: &str, file: &[u8]) -> String {
        format!("data:image/{kind};base64,{}", STANDARD.encode(file))
    }

    #[test]
    fn a_picture_is_what_its_bytes_say() {
        let png = b"\x89PNG\r\n\x1a\n\x00";
        for declared in ["png", "jpeg", "svg+xml"] {
            let (kind, file) = parse(&data_url(declared, png)).unwrap();
            assert_eq!((kind, file.as_ref()), (PictureKind::Png, &png[..]), "{declared}");
        }
        for wrong in [
            "",
            "https://example.org/a.png",
            "data:text/html;base64,PHNjcmlwdD4=",
            "data:image/png,abc",
            "data:image/png;base64,?",
            &data_url("png", b"<svg/>"),
            "é".repeat(20).as_str(),
        ] {
            assert_eq!(parse(wrong).unwrap_err().code, Code::BadRequest, "{wrong}");
        }
    }

    #[test]
    fn a_picture_has_at_most_1_mib() {
        let mut file = vec![0; PICTURE_FILE_BYTES_MAX];
        file[..6].copy_from_slice(b"GIF89a");
        assert_eq!(parse(&data_url("gif", &file)).unwrap().0, PictureKind::Gif);
        file.push(0);
        assert_eq!(parse(&data_url("gif", &file)).unwrap_err().code, Code::TooLarge);
        file.resize(PICTURE_FILE_BYTES_MAX * 2, 0);
        assert_eq!(parse(&data_url("gif", &file)).unwrap_err().code, Code::TooLarge);
    }
}
