"""An evaluation that answers at once."""


def evaluate(set_dir, protocol, weights, device, **options):
    return [{"system": "input", "PSNR": 22.1, "SSIM": 0.75}, {"system": weights, "PSNR": 23.456, **options}]
