import Foundation

/// The matrix between RGB and YUV. Where a video does not say, BT.601 is meant.
public enum ColorMatrix: String, Sendable, CaseIterable {
    case bt601, bt709, bt2020

    /// swscale's coefficients of V in red, U in blue, U in green (negated) and V in green (negated), in 1/65536.
    fileprivate var coefficients: (crv: Int, cbu: Int, cgu: Int, cgv: Int) {
        switch self {
        case .bt601: (104597, 132201, 25675, 53279)
        case .bt709: (117489, 138438, 13975, 34925)
        case .bt2020: (110013, 140363, 12277, 42626)
        }
    }
}

/// A picture as a phone's decoder gives it: 8-bit 4:2:0 planes with strides in bytes (I420, NV12 and NV21 differ only in those), a crop,
/// and the turn that shows it upright. The memory is the caller's and has to stay while this is used.
public struct Planes {
    /// Pixels of the crop.
    public let width: Int
    public let height: Int
    public let y: UnsafeRawBufferPointer
    public let yRowStride: Int
    public let yPixelStride: Int
    public let u: UnsafeRawBufferPointer
    public let v: UnsafeRawBufferPointer
    public let uvRowStride: Int
    public let uvPixelStride: Int
    public let matrix: ColorMatrix
    public let fullRange: Bool
    /// Degrees clockwise, for display: 0, 90, 180 or 270.
    public let rotation: Int
    /// Left and right are exchanged, after the rotation.
    public let mirrored: Bool
    public let cropLeft: Int
    public let cropTop: Int

    public init(
        width: Int, height: Int, y: UnsafeRawBufferPointer, yRowStride: Int, yPixelStride: Int = 1, u: UnsafeRawBufferPointer,
        v: UnsafeRawBufferPointer, uvRowStride: Int, uvPixelStride: Int, matrix: ColorMatrix, fullRange: Bool, rotation: Int,
        mirrored: Bool = false, cropLeft: Int = 0, cropTop: Int = 0
    ) {
        self.width = width
        self.height = height
        self.y = y
        self.yRowStride = yRowStride
        self.yPixelStride = yPixelStride
        self.u = u
        self.v = v
        self.uvRowStride = uvRowStride
        self.uvPixelStride = uvPixelStride
        self.matrix = matrix
        self.fullRange = fullRange
        self.rotation = rotation
        self.mirrored = mirrored
        self.cropLeft = cropLeft
        self.cropTop = cropTop
    }

    /// Upright RGB, bit for bit what Python's decoder gives (swscale, for even heights): a chroma sample counts for its 2x2 block.
    /// Throws `videoUnreadable` where a plane is shorter than its strides say, or the rotation is no right angle.
    public func rgb() throws -> RGBImage {
        try check()
        let map = destination()
        let lookup = YUVTables(matrix, fullRange: fullRange)
        let data = [UInt8](unsafeUninitializedCapacity: width * height * 3) { out, count in
            lookup.withTables { tables in
                for row in 0..<height {
                    let luma = (cropTop + row) * yRowStride
                    let chroma = ((cropTop + row) >> 1) * uvRowStride
                    var place = (map.origin + row * map.down) * 3
                    for column in 0..<width {
                        let across = cropLeft + column
                        let at = chroma + (across >> 1) * uvPixelStride
                        let bright = tables[Int(y[luma + across * yPixelStride])]
                        let (blue, red) = (Int(u[at]), Int(v[at]))
                        out[place] = Self.clamp(bright &+ tables[256 + red])
                        out[place + 1] = Self.clamp(bright &+ tables[512 + blue] &+ tables[768 + red])
                        out[place + 2] = Self.clamp(bright &+ tables[1024 + blue])
                        place += map.across * 3
                    }
                }
            }
            count = width * height * 3
        }
        let turned = rotation % 180 != 0
        return RGBImage(width: turned ? height : width, height: turned ? width : height, data: data)
    }

    @inline(__always) private static func clamp(_ value: Int32) -> UInt8 { UInt8(truncatingIfNeeded: min(max(value, 0), 255)) }

    /// Where the first pixel goes in the upright picture, and the steps to the next one of its row and of its column, in pixels.
    private func destination() -> (origin: Int, across: Int, down: Int) {
        let (last, bottom) = (width - 1, height - 1)
        return switch (rotation, mirrored) {
        case (0, false): (0, 1, width)
        case (0, true): (last, -1, width)
        case (90, false): (bottom, height, -1)
        case (90, true): (0, height, 1)
        case (180, false): (width * height - 1, -1, -width)
        case (180, true): (width * bottom, 1, -width)
        case (270, false): (last * height, -height, 1)
        default: (width * height - 1, -height, -1)
        }
    }

    private func check() throws {
        func reach(_ rows: Int, _ rowStride: Int, _ columns: Int, _ pixelStride: Int) -> Int {
            (rows - 1) * rowStride + (columns - 1) * pixelStride + 1
        }
        let positive = width > 0 && height > 0 && cropLeft >= 0 && cropTop >= 0
        let strides = [yRowStride, yPixelStride, uvRowStride, uvPixelStride].allSatisfy { $0 > 0 }
        guard positive, strides, [0, 90, 180, 270].contains(rotation) else {
            throw VideoGPTError.videoUnreadable(reason: "a frame of \(width) x \(height) pixels turned by \(rotation) degrees")
        }
        let (right, below) = (cropLeft + width, cropTop + height)
        let chroma = reach((below + 1) / 2, uvRowStride, (right + 1) / 2, uvPixelStride)
        guard y.count >= reach(below, yRowStride, right, yPixelStride), u.count >= chroma, v.count >= chroma else {
            throw VideoGPTError.videoUnreadable(reason: "a frame's planes are shorter than its \(width) x \(height) pixels")
        }
    }
}

/// swscale's integer arithmetic as five tables of 256: what Y adds to all channels, V to red, U to green, V to green, U to blue.
private struct YUVTables {
    private var values: [Int32] = []

    init(_ matrix: ColorMatrix, fullRange: Bool) {
        let c = matrix.coefficients
        func chroma(_ coefficient: Int) -> Int { fullRange ? coefficient * 224 / 255 : coefficient }
        let (bright, dark) = fullRange ? (65536, 0) : (65536 * 255 / 219, 16 << 16)
        func scaled(_ coefficient: Int) -> Int { (coefficient * 8192 + 32768) >> 16 }
        let offset = (dark * 8 + 32768) >> 16
        values += (0..<256).map { Int32(((($0 << 3) - offset) * scaled(bright)) >> 16) }
        for coefficient in [c.crv, -c.cgu, -c.cgv, c.cbu] {
            let factor = scaled(chroma(coefficient))
            values += (0..<256).map { Int32(((($0 << 3) - 1024) * factor) >> 16) }
        }
    }

    func withTables<Result>(_ body: (UnsafeBufferPointer<Int32>) -> Result) -> Result { values.withUnsafeBufferPointer(body) }
}
