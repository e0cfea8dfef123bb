"""A frog, a horse, a bird and a deer, drawn where one meets them. Free of torch."""

from __future__ import annotations

from PIL import Image

from effnets.demo.canvas import Canvas, Colour, Point, box, curve, ellipse, moved

__all__ = ["draw_bird", "draw_deer", "draw_frog", "draw_horse"]


def draw_frog(size: int) -> Image.Image:
    """A green frog that sits on the ground, seen from the front and a little from above."""
    canvas = Canvas(size, seed=5)
    canvas.backdrop((0.0, (104, 86, 62)), (1.0, (142, 118, 88)))
    canvas.texture(grain=(0.05, 0.04), strength=16)
    canvas.texture(grain=(0.015, 0.012), strength=8)
    canvas.shadow(ellipse((0.5, 0.8), (0.44, 0.09)), strength=0.7, soft=0.03)
    light, dark = (120, 168, 58), (52, 92, 28)
    for side in (-1, 1):
        thigh = ellipse((0.5 + side * 0.27, 0.64), (0.15, 0.17), degrees=side * 20)
        canvas.shape(thigh, light, dark)
        foot = ellipse((0.5 + side * 0.32, 0.8), (0.13, 0.032))
        canvas.shape(foot, (104, 146, 54), (60, 96, 34))
    body = curve((0.5, 0.27), (0.66, 0.3), (0.74, 0.46), (0.74, 0.64), (0.64, 0.79), (0.5, 0.82), (0.36, 0.79),
                 (0.26, 0.64), (0.26, 0.46), (0.34, 0.3))  # fmt: skip
    canvas.shape(body, (138, 190, 66), (76, 120, 38))
    belly = curve((0.5, 0.55), (0.65, 0.56), (0.64, 0.72), (0.5, 0.8), (0.36, 0.72), (0.35, 0.56))
    canvas.shape(belly, (214, 218, 150), (168, 172, 104), soft=0.01)
    for x, y, radius in (
        (0.38, 0.42, 0.025),
        (0.6, 0.4, 0.03),
        (0.5, 0.35, 0.022),
        (0.67, 0.5, 0.022),
        (0.32, 0.53, 0.02),
    ):
        canvas.shape(ellipse((x, y), (radius, radius * 0.7)), (64, 104, 34), soft=0.004)
    for side in (-1, 1):
        arm = [(0.5 + side * 0.17, 0.6), (0.5 + side * 0.22, 0.72), (0.5 + side * 0.16, 0.83)]
        canvas.line(arm, 0.06, (92, 138, 46))
        for toe in (-0.04, 0.0, 0.04):
            canvas.line([arm[-1], (arm[-1][0] + toe, 0.86)], 0.02, (104, 148, 54))
        eye = (0.5 + side * 0.135, 0.285)
        canvas.shape(ellipse(eye, (0.085, 0.08)), (146, 198, 74), (84, 130, 44))
        canvas.shape(ellipse(eye, (0.058, 0.056)), (224, 178, 52), (172, 122, 30))
        canvas.shape(ellipse(eye, (0.04, 0.022)), (16, 14, 10))
        canvas.shape(ellipse((eye[0] - 0.016, eye[1] - 0.02), (0.012, 0.012)), (255, 255, 250))
    canvas.line(ellipse((0.5, 0.4), (0.2, 0.12), start=20, end=160), 0.01, (48, 76, 24))
    return canvas.finish()


def draw_horse(size: int) -> Image.Image:
    """A brown horse on a meadow, from the side."""
    canvas = Canvas(size, seed=6)
    _meadow(canvas)
    light, dark, mane = (158, 96, 52), (92, 50, 24), (38, 24, 16)
    canvas.shadow(ellipse((0.48, 0.91), (0.36, 0.03)), strength=0.6, soft=0.02)
    tail = curve((0.15, 0.42), (0.1, 0.46), (0.07, 0.6), (0.08, 0.76), (0.12, 0.74), (0.13, 0.58), (0.18, 0.47))
    canvas.shape(tail, mane)
    for x in (0.27, 0.6):
        _leg(canvas, (x, 0.62), 0.07, (104, 60, 30), (62, 34, 18))
    body = curve((0.14, 0.46), (0.2, 0.39), (0.36, 0.39), (0.52, 0.39), (0.6, 0.34), (0.67, 0.22), (0.74, 0.13),
                 (0.8, 0.13), (0.86, 0.2), (0.93, 0.3), (0.91, 0.35), (0.85, 0.345), (0.78, 0.3), (0.74, 0.42),
                 (0.69, 0.55), (0.62, 0.63), (0.46, 0.64), (0.3, 0.62), (0.2, 0.64), (0.14, 0.57))  # fmt: skip
    canvas.shape(body, light, dark)
    canvas.glow(curve((0.2, 0.42), (0.4, 0.415), (0.56, 0.41), (0.4, 0.44)), strength=0.3, soft=0.015)
    for x in (0.17, 0.65):
        _leg(canvas, (x, 0.58), 0.08, (140, 82, 44), (74, 42, 22))
    canvas.shape(
        curve(
            (0.74, 0.11), (0.68, 0.17), (0.6, 0.3), (0.54, 0.39), (0.6, 0.4), (0.66, 0.32), (0.71, 0.22), (0.77, 0.14)
        ),
        mane,
    )
    canvas.shape([(0.745, 0.14), (0.755, 0.06), (0.79, 0.13)], (120, 70, 38))
    canvas.shape(ellipse((0.815, 0.2), (0.013, 0.014)), (16, 12, 10))
    canvas.shape(ellipse((0.905, 0.32), (0.01, 0.012)), (40, 24, 18))
    return canvas.finish()


def draw_deer(size: int) -> Image.Image:
    """A stag at the edge of a wood, from the side."""
    canvas = Canvas(size, seed=7)
    canvas.backdrop((0.0, (52, 72, 44)), (0.5, (84, 104, 62)), (0.6, (128, 138, 76)), (1.0, (152, 148, 88)))
    canvas.texture(grain=(0.09, 0.09), strength=14, inside=box(0, 0, 1, 0.62))
    canvas.texture(grain=(0.012, 0.03), strength=9, inside=box(0, 0.5, 1, 1))
    light, dark = (200, 144, 90), (150, 100, 60)
    canvas.shadow(ellipse((0.46, 0.92), (0.3, 0.025)), strength=0.6, soft=0.02)
    for x in (0.3, 0.57):
        _leg(canvas, (x, 0.66), 0.05, (122, 82, 48), (70, 46, 28))
    body = curve((0.17, 0.53), (0.22, 0.47), (0.4, 0.47), (0.56, 0.46), (0.62, 0.4), (0.65, 0.3), (0.7, 0.25),
                 (0.77, 0.26), (0.86, 0.32), (0.85, 0.355), (0.77, 0.36), (0.73, 0.4), (0.7, 0.54), (0.63, 0.66),
                 (0.44, 0.67), (0.26, 0.68), (0.18, 0.62))  # fmt: skip
    canvas.shape(body, light, dark)
    canvas.shape(curve((0.16, 0.53), (0.13, 0.57), (0.15, 0.63), (0.19, 0.6)), (240, 232, 216))
    canvas.shape(curve((0.3, 0.645), (0.45, 0.63), (0.6, 0.635), (0.45, 0.67)), (226, 206, 174), soft=0.01)
    for x in (0.21, 0.62):
        _leg(canvas, (x, 0.63), 0.055, (158, 108, 64), (84, 56, 34))
    canvas.shape([(0.68, 0.27), (0.6, 0.22), (0.66, 0.3)], (150, 100, 60))
    antler = (214, 196, 158)
    for lean in (-0.05, 0.05):
        beam = [(0.705, 0.26), (0.68 + lean, 0.17), (0.72 + 2 * lean, 0.06)]
        canvas.line(beam, 0.025, antler)
        canvas.line([beam[1], (beam[1][0] + 0.07, 0.11)], 0.018, antler)
        canvas.line([(0.7 + 1.5 * lean, 0.115), (0.64 + 1.5 * lean, 0.06)], 0.017, antler)
    canvas.shape(ellipse((0.755, 0.298), (0.011, 0.012)), (18, 14, 12))
    canvas.shape(ellipse((0.855, 0.333), (0.014, 0.012)), (34, 24, 20))
    return canvas.finish()


def draw_bird(size: int) -> Image.Image:
    """A robin on a branch, from the side."""
    canvas = Canvas(size, seed=8)
    canvas.backdrop((0.0, (150, 172, 120)), (1.0, (108, 132, 86)))
    canvas.texture(grain=(0.25, 0.25), strength=16)
    canvas.line([(0.0, 0.86), (0.4, 0.82), (1.0, 0.84)], 0.05, (92, 68, 48))
    canvas.line([(0.0, 0.85), (0.4, 0.81), (1.0, 0.83)], 0.015, (134, 104, 76))
    for x in (0.48, 0.55):
        canvas.line([(x, 0.68), (x + 0.01, 0.81)], 0.014, (120, 82, 50))
    canvas.shape([(0.28, 0.6), (0.06, 0.78), (0.12, 0.82), (0.36, 0.68)], (104, 84, 60), (72, 58, 42))
    body = curve((0.3, 0.58), (0.36, 0.46), (0.5, 0.36), (0.58, 0.23), (0.68, 0.2), (0.78, 0.25), (0.79, 0.35),
                 (0.76, 0.5), (0.68, 0.65), (0.54, 0.73), (0.4, 0.71))  # fmt: skip
    canvas.shape(body, (134, 112, 82), (222, 212, 196))
    breast = curve((0.73, 0.25), (0.79, 0.32), (0.77, 0.47), (0.69, 0.57), (0.61, 0.5), (0.64, 0.36))
    canvas.shape(breast, (226, 108, 38), (204, 84, 30), soft=0.008)
    wing = curve((0.52, 0.42), (0.58, 0.52), (0.5, 0.62), (0.34, 0.69), (0.22, 0.71), (0.34, 0.54))
    canvas.shape(wing, (112, 92, 66), (78, 64, 46), soft=0.004)
    canvas.shape([(0.77, 0.27), (0.88, 0.305), (0.78, 0.325)], (44, 38, 34))
    canvas.shape(ellipse((0.7, 0.275), (0.023, 0.025)), (14, 12, 10))
    canvas.shape(ellipse((0.694, 0.267), (0.007, 0.007)), (250, 250, 250))
    return canvas.finish()


def _meadow(canvas: Canvas) -> None:
    canvas.backdrop((0.0, (164, 196, 222)), (0.3, (206, 220, 222)), (0.34, (74, 104, 62)), (0.5, (96, 132, 62)),
                    (1.0, (122, 156, 72)))  # fmt: skip
    canvas.texture(grain=(0.08, 0.06), strength=10, inside=box(0, 0.3, 1, 0.5))
    canvas.texture(grain=(0.012, 0.03), strength=9, inside=box(0, 0.45, 1, 1))


def _leg(canvas: Canvas, top: Point, width: float, light: Colour, dark: Colour) -> None:
    x, y = top
    leg = curve(
        (-width / 2, 0),
        (width / 2, 0),
        (width * 0.3, 0.14),
        (width * 0.28, 0.26),
        (-width * 0.2, 0.26),
        (-width * 0.25, 0.13),
    )
    canvas.shape(moved(leg, (x + width / 2, y)), light, dark)
    canvas.shape(box(x + width * 0.22, y + 0.25, x + width * 0.85, y + 0.29), (30, 24, 20))
