"""An evaluation that answers at once."""

OPTIONS = ("way",)


def evaluate(set_dir, protocol="disk", weights=None, device="auto", **options):
    return [{"system": "input", "PSNR": 22.1, "SSIM": 0.75}, {"system": weights, "PSNR": 23.456, **options}]
