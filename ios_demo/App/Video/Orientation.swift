import Foundation

/// How a track's pictures are turned to stand upright: first clockwise by `rotation`, then mirrored left to right.
struct Orientation: Equatable, Sendable {
    /// 0, 90, 180 or 270.
    let rotation: Int
    let mirrored: Bool

    /// Of a display matrix: a pixel at (x, y) is shown at (a x + c y, b x + d y), up to a shift. Angles between are taken for the nearest
    /// right one, as `runtime_py/video.py` has it.
    init(a: Double, b: Double, c: Double, d: Double) {
        if abs(b) > abs(a) {
            rotation = b < 0 ? 270 : 90
            mirrored = (b < 0) == (c < 0)
        } else {
            rotation = d < 0 ? 180 : 0
            mirrored = (a < 0) != (d < 0)
        }
    }
}
