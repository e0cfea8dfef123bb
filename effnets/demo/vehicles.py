"""An airplane, a ship, a car and a truck, drawn where one meets them. Free of torch."""

from __future__ import annotations

from PIL import Image

from effnets.demo.canvas import Canvas, Colour, Point, box, curve, ellipse, moved

__all__ = ["draw_airplane", "draw_automobile", "draw_ship", "draw_truck"]

_RUBBER: Colour = (28, 28, 32)


def draw_airplane(size: int) -> Image.Image:
    """An airliner in flight, seen from the side and a little from below."""
    canvas = Canvas(size, seed=1)
    canvas.backdrop((0.0, (64, 118, 196)), (1.0, (178, 208, 238)))
    for centre, radii in (((0.16, 0.86), (0.2, 0.05)), ((0.34, 0.9), (0.22, 0.05)), ((0.92, 0.2), (0.16, 0.03))):
        canvas.glow(ellipse(centre, radii), strength=0.55, soft=0.03)

    def place(*points: Point) -> list[Point]:
        return moved(points, (0.53, 0.5), scale=0.94, degrees=-9)

    far_wing = place((0.06, -0.02), (-0.1, -0.2), (-0.16, -0.2), (-0.07, -0.01))
    canvas.shape(far_wing, (150, 156, 168), (182, 188, 198))
    canvas.shape(place((-0.38, -0.03), (-0.47, -0.2), (-0.4, -0.2), (-0.26, -0.04)), (36, 66, 140), (46, 82, 160))
    hull = place(*curve((0.46, 0.0), (0.4, -0.055), (0.25, -0.075), (-0.2, -0.07), (-0.45, -0.05), (-0.46, -0.02),
                        (-0.25, 0.06), (0.2, 0.075), (0.38, 0.06)))  # fmt: skip
    canvas.shape(hull, (250, 251, 253), (156, 164, 178))
    canvas.shape(place((-0.4, -0.015), (-0.52, -0.07), (-0.46, -0.075), (-0.31, -0.02)), (206, 210, 218))
    canvas.shape(place((0.42, -0.03), (0.37, -0.05), (0.35, -0.03), (0.41, -0.015)), (40, 48, 66))
    for number in range(15):
        left = -0.28 + 0.04 * number
        canvas.shape(place(*box(left, -0.03, left + 0.017, -0.008)), (62, 74, 98))
    engine = place(*curve((0.14, 0.1), (0.12, 0.065), (-0.02, 0.07), (-0.03, 0.1), (-0.01, 0.125), (0.11, 0.13)))
    canvas.shape(engine, (226, 230, 236), (120, 128, 142))
    wing = place((0.1, 0.03), (-0.22, 0.3), (-0.3, 0.3), (-0.12, 0.04))
    canvas.shape(wing, (206, 211, 220), (132, 140, 154))
    canvas.line(place((0.1, 0.03), (-0.22, 0.3)), 0.006, (240, 242, 246))
    return canvas.finish()


def draw_ship(size: int) -> Image.Image:
    """A cargo ship at sea."""
    canvas = Canvas(size, seed=2)
    canvas.backdrop((0.0, (130, 176, 222)), (0.55, (214, 228, 238)), (0.56, (58, 104, 142)), (1.0, (22, 58, 92)))
    canvas.texture(grain=(0.09, 0.014), strength=9, inside=box(0, 0.57, 1, 1))
    canvas.shape(box(0.2, 0.36, 0.4, 0.6), (250, 250, 248), (206, 208, 210))
    canvas.shape(box(0.23, 0.26, 0.37, 0.37), (252, 252, 250), (222, 224, 226))
    canvas.shape(box(0.27, 0.15, 0.33, 0.27), (206, 58, 44), (150, 34, 28))
    canvas.shape(box(0.27, 0.15, 0.33, 0.175), (30, 30, 34))
    for row in (0.29, 0.41, 0.47):
        for column in range(5 if row > 0.3 else 4):
            left = (0.215 if row > 0.3 else 0.24) + 0.036 * column
            canvas.shape(box(left, row, left + 0.02, row + 0.025), (52, 70, 92))
    colours: tuple[Colour, ...] = ((176, 74, 48), (52, 104, 150), (206, 158, 62), (84, 128, 88))
    for number in range(12):
        left, top = 0.43 + 0.08 * (number % 6), 0.5 - 0.075 * (number // 6)
        if number != 11:
            light = colours[(number * 7 + number // 6) % 4]
            dark = tuple(round(0.7 * level) for level in light)
            canvas.shape(box(left, top, left + 0.074, top + 0.07), light, (dark[0], dark[1], dark[2]))
    hull = [(0.06, 0.56), (0.95, 0.54), (0.88, 0.72), (0.13, 0.72)]
    canvas.shape(hull, (42, 52, 70), (20, 26, 38))
    canvas.shape([(0.115, 0.69), (0.893, 0.69), (0.88, 0.735), (0.13, 0.735)], (168, 42, 36), (112, 26, 24))
    canvas.line([(0.06, 0.56), (0.95, 0.54)], 0.008, (226, 230, 234))
    canvas.shadow(box(0.1, 0.735, 0.92, 0.8), strength=0.45)
    canvas.glow(curve((0.1, 0.735), (0.4, 0.745), (0.9, 0.73), (0.99, 0.75), (0.6, 0.765), (0.2, 0.76)), soft=0.008)
    return canvas.finish()


def draw_automobile(size: int) -> Image.Image:
    """A red car on a road, from the side."""
    canvas = Canvas(size, seed=3)
    canvas.backdrop((0.0, (176, 204, 228)), (0.4, (216, 226, 230)), (0.41, (96, 120, 84)), (0.62, (112, 132, 92)),
                    (0.63, (120, 120, 124)), (1.0, (92, 92, 96)))  # fmt: skip
    canvas.texture(grain=(0.06, 0.05), strength=14, inside=box(0, 0.36, 1, 0.62))
    canvas.texture(grain=(0.02, 0.01), strength=5, inside=box(0, 0.63, 1, 1))
    canvas.shadow(ellipse((0.5, 0.775), (0.46, 0.045)), strength=0.75, soft=0.02)
    body = curve((0.05, 0.66), (0.05, 0.56), (0.12, 0.5), (0.26, 0.47), (0.36, 0.345), (0.5, 0.315), (0.66, 0.335),
                 (0.78, 0.46), (0.92, 0.5), (0.96, 0.58), (0.95, 0.7),
                 (0.8, 0.745), (0.2, 0.745), (0.07, 0.73))  # fmt: skip
    canvas.shape(body, (232, 62, 50), (118, 14, 18))
    canvas.glow(curve((0.1, 0.535), (0.4, 0.5), (0.9, 0.53), (0.7, 0.545), (0.3, 0.54)), strength=0.4, soft=0.012)
    canvas.shape([(0.31, 0.475), (0.39, 0.375), (0.5, 0.35), (0.505, 0.475)], (78, 98, 116), (34, 44, 56))
    canvas.shape([(0.53, 0.475), (0.525, 0.35), (0.64, 0.365), (0.72, 0.475)], (84, 104, 122), (34, 44, 56))
    canvas.line([(0.515, 0.48), (0.53, 0.72)], 0.005, (96, 10, 14))
    canvas.shape(box(0.56, 0.545, 0.62, 0.556), (250, 220, 210))
    canvas.shape(ellipse((0.925, 0.56), (0.022, 0.028)), (255, 250, 224), (232, 214, 160))
    canvas.shape(box(0.045, 0.55, 0.075, 0.6, radius=0.008), (255, 120, 90), (190, 40, 30))
    for x in (0.25, 0.75):
        _wheel(canvas, (x, 0.725), 0.088)
    return canvas.finish()


def draw_truck(size: int) -> Image.Image:
    """A lorry with a box, from the side."""
    canvas = Canvas(size, seed=4)
    canvas.backdrop((0.0, (150, 188, 224)), (0.58, (220, 230, 236)), (0.6, (128, 130, 108)), (0.72, (122, 122, 118)),
                    (0.73, (110, 110, 114)), (1.0, (84, 84, 88)))  # fmt: skip
    canvas.texture(grain=(0.03, 0.012), strength=5, inside=box(0, 0.72, 1, 1))
    canvas.shadow(ellipse((0.5, 0.865), (0.47, 0.035)), strength=0.75, soft=0.02)
    canvas.shape(box(0.06, 0.72, 0.95, 0.79), (58, 60, 66), (30, 32, 36))
    canvas.shape(box(0.04, 0.2, 0.66, 0.72, radius=0.012), (252, 252, 250), (186, 190, 196))
    for number in range(1, 8):
        canvas.line([(0.04 + 0.0775 * number, 0.22), (0.04 + 0.0775 * number, 0.71)], 0.004, (196, 200, 204))
    canvas.shape(box(0.04, 0.42, 0.66, 0.5), (44, 102, 176), (34, 84, 152))
    cab = curve((0.69, 0.76), (0.69, 0.5), (0.7, 0.36), (0.78, 0.335), (0.88, 0.36), (0.93, 0.54), (0.96, 0.6),
                (0.96, 0.74), (0.93, 0.78))  # fmt: skip
    canvas.shape(cab, (58, 122, 204), (18, 52, 112))
    canvas.shape([(0.745, 0.54), (0.75, 0.4), (0.855, 0.4), (0.89, 0.54)], (128, 160, 184), (50, 68, 86))
    canvas.line([(0.73, 0.38), (0.73, 0.75)], 0.005, (16, 42, 92))
    canvas.shape(box(0.915, 0.65, 0.96, 0.69, radius=0.01), (255, 246, 214), (230, 206, 150))
    for x in (0.17, 0.32, 0.81):
        _wheel(canvas, (x, 0.79), 0.078)
    return canvas.finish()


def _wheel(canvas: Canvas, centre: Point, radius: float) -> None:
    x, y = centre
    canvas.shape(ellipse(centre, (radius * 1.15, radius * 1.15), start=180, end=360), (20, 16, 18))
    canvas.shape(ellipse(centre, (radius, radius)), (52, 52, 56), _RUBBER)
    canvas.shape(ellipse(centre, (radius * 0.6, radius * 0.6)), (218, 222, 228), (136, 140, 148))
    for degrees in range(0, 360, 72):
        spoke = moved([(radius * 0.34, 0.0)], (x, y), degrees=degrees)[0]
        canvas.shape(ellipse(spoke, (radius * 0.12, radius * 0.12)), (70, 72, 78))
    canvas.shape(ellipse(centre, (radius * 0.14, radius * 0.14)), (110, 114, 120))
