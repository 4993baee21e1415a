import Foundation

/// An upright picture: uint8 RGB [height, width, 3].
public struct RGBImage: Sendable, Equatable {
    public let width: Int
    public let height: Int
    public let data: [UInt8]

    public init(width: Int, height: Int, data: [UInt8]) {
        precondition(width > 0 && height > 0 && data.count == width * height * 3, "no picture of \(width) x \(height)")
        self.width = width
        self.height = height
        self.data = data
    }
}

/// CLIP's view of a picture: shortest side to `side` by Pillow's antialiased bicubic, centre crop. uint8 [side, side, 3].
func clipImage(_ image: RGBImage, side: Int) -> [UInt8] {
    let (width, height) = (image.width, image.height)
    let size = width <= height ? (width: side, height: side * height / width) : (width: side * width / height, height: side)
    let left = (size.width - side) / 2
    let top = (size.height - side) / 2
    let columns = BicubicTaps(from: width, to: size.width, range: left..<left + side)
    let rows = BicubicTaps(from: height, to: size.height, range: top..<top + side)
    // Each pass rounds to bytes, so their order shows. Pillow 13 begins with the columns where that takes away many more rows.
    let (lostRows, lostColumns) = (height - size.height, width - size.width)
    if lostRows > 0 && lostRows > 2 * lostColumns {
        let low = [UInt8](unsafeUninitializedCapacity: side * width * 3) { out, count in
            image.data.withUnsafeBufferPointer { rows.downColumns(of: $0, width: width, first: 0, into: out) }
            count = side * width * 3
        }  // [side, width, 3]
        return [UInt8](unsafeUninitializedCapacity: side * side * 3) { out, count in
            low.withUnsafeBufferPointer { columns.acrossRows(of: $0, width: width, rows: 0..<side, into: out) }
            count = side * side * 3
        }
    }
    let first = rows.starts.min() ?? 0
    let needed = (0..<side).map { rows.starts[$0] + rows.counts[$0] }.max() ?? height
    let narrow = [UInt8](unsafeUninitializedCapacity: (needed - first) * side * 3) { out, count in
        image.data.withUnsafeBufferPointer { source in
            columns.acrossRows(of: source, width: width, rows: first..<needed, into: out)
        }
        count = (needed - first) * side * 3
    }  // [needed rows, side, 3]
    return [UInt8](unsafeUninitializedCapacity: side * side * 3) { out, count in
        narrow.withUnsafeBufferPointer { rows.downColumns(of: $0, width: side, first: first, into: out) }
        count = side * side * 3
    }
}

/// Pillow's filter weights for the outputs in `range` of an axis resized from one size to another: BICUBIC (a = -0.5), its support scaled
/// when shrinking, in 22-bit fixed point (Pillow's `Resample.c`, `precompute_coeffs` and `normalize_coeffs_8bpc`).
private struct BicubicTaps {
    private static let bits: Int32 = 22

    private(set) var starts: [Int] = []
    private(set) var counts: [Int] = []
    private var weights: [Int32] = []  // [outputs, most]
    private let most: Int

    init(from size: Int, to newSize: Int, range: Range<Int>) {
        let scale = Double(size) / Double(newSize)
        let filterScale = max(scale, 1)
        let support = 2 * filterScale
        most = Int(support.rounded(.up)) * 2 + 1
        for output in range {
            let center = (Double(output) + 0.5) * scale
            let start = max(0, Int(center - support + 0.5))
            let count = min(size, Int(center + support + 0.5)) - start
            var values = (0..<count).map { Self.bicubic((Double($0 + start) - center + 0.5) * (1 / filterScale)) }
            let sum = values.reduce(0, +)
            if sum != 0 { values = values.map { $0 / sum } }
            starts.append(start)
            counts.append(count)
            weights += values.map { Int32($0 * Double(1 << Self.bits) + ($0 < 0 ? -0.5 : 0.5)) }
            weights += Array(repeating: 0, count: most - count)
        }
    }

    private static func bicubic(_ x: Double) -> Double {
        let a = -0.5
        let x = abs(x)
        if x < 1 { return ((a + 2) * x - (a + 3)) * x * x + 1 }
        if x < 2 { return (((x - 5) * x + 8) * x - 4) * a }
        return 0
    }

    /// Rows of [height, width, 3] -> [rows, outputs, 3].
    func acrossRows(of source: UnsafeBufferPointer<UInt8>, width: Int, rows: Range<Int>, into out: UnsafeMutableBufferPointer<UInt8>) {
        weights.withUnsafeBufferPointer { weights in
            var place = 0
            for row in rows {
                for output in starts.indices {
                    var (red, green, blue) = (Self.half, Self.half, Self.half)
                    var at = (row * width + starts[output]) * 3
                    let begin = output * most
                    for tap in begin..<begin + counts[output] {
                        let weight = weights[tap]
                        red &+= Int32(source[at]) &* weight
                        green &+= Int32(source[at + 1]) &* weight
                        blue &+= Int32(source[at + 2]) &* weight
                        at += 3
                    }
                    out[place] = Self.clip(red)
                    out[place + 1] = Self.clip(green)
                    out[place + 2] = Self.clip(blue)
                    place += 3
                }
            }
        }
    }

    /// [rows from `first` on, width, 3] -> [outputs, width, 3].
    func downColumns(of source: UnsafeBufferPointer<UInt8>, width: Int, first: Int, into out: UnsafeMutableBufferPointer<UInt8>) {
        let line = width * 3
        var sums = Array(repeating: Int32(0), count: line)
        sums.withUnsafeMutableBufferPointer { sums in
            for output in starts.indices {
                sums.update(repeating: Self.half)
                for tap in 0..<counts[output] {
                    let weight = weights[output * most + tap]
                    let begin = (starts[output] - first + tap) * line
                    for i in 0..<line { sums[i] &+= Int32(source[begin + i]) &* weight }
                }
                for i in 0..<line { out[output * line + i] = Self.clip(sums[i]) }
            }
        }
    }

    private static let half: Int32 = 1 << (bits - 1)

    private static func clip(_ sum: Int32) -> UInt8 { UInt8(truncatingIfNeeded: min(max(sum >> bits, 0), 255)) }
}

/// VideoMamba's view of a picture: squashed to `side` x `side` by OpenCV's INTER_LINEAR for uint8, which has no antialiasing: 11-bit
/// coefficients, half-pixel centres. uint8 [side, side, 3].
func videoImage(_ image: RGBImage, side: Int) -> [UInt8] {
    let columns = LinearTaps(from: image.width, to: side, sharesEdges: false)
    let rows = LinearTaps(from: image.height, to: side, sharesEdges: true)
    return [UInt8](unsafeUninitializedCapacity: side * side * 3) { out, count in
        image.data.withUnsafeBufferPointer { source in
            for row in 0..<side {
                let upper = rows.first[row] * image.width * 3
                let lower = rows.second[row] * image.width * 3
                let (above, below) = (rows.weights[row].0, rows.weights[row].1)
                for column in 0..<side {
                    let (left, right) = (columns.first[column] * 3, columns.second[column] * 3)
                    let (before, behind) = (columns.weights[column].0, columns.weights[column].1)
                    for channel in 0..<3 {
                        let top = Int32(source[upper + left + channel]) &* before &+ Int32(source[upper + right + channel]) &* behind
                        let bottom = Int32(source[lower + left + channel]) &* before &+ Int32(source[lower + right + channel]) &* behind
                        let sum = ((above &* (top >> 4)) >> 16) &+ ((below &* (bottom >> 4)) >> 16)
                        out[(row * side + column) * 3 + channel] = UInt8(truncatingIfNeeded: (sum &+ 2) >> 2)
                    }
                }
            }
        }
        count = side * side * 3
    }
}

/// The two neighbours of each output of an axis, and their weights in 1/2048, rounded to even as `cvRound` does. Beyond an edge both
/// neighbours are the edge; OpenCV then shares the weight between them for rows and gives one of them all of it for columns, and the sums
/// are rounded differently.
private struct LinearTaps {
    private(set) var first: [Int] = []
    private(set) var second: [Int] = []
    private(set) var weights: [(Int32, Int32)] = []

    init(from size: Int, to newSize: Int, sharesEdges: Bool) {
        let scale = 1 / (Double(newSize) / Double(size))
        for output in 0..<newSize {
            let center = Float((Double(output) + 0.5) * scale - 0.5)
            let floor = center.rounded(.down)
            let at = Int(floor)
            let share = !sharesEdges && (at < 0 || at >= size - 1) ? 0 : center - floor
            first.append(min(max(at, 0), size - 1))
            second.append(min(max(at + 1, 0), size - 1))
            weights.append((Int32(((1 - share) * 2048).rounded(.toNearestOrEven)), Int32((share * 2048).rounded(.toNearestOrEven))))
        }
    }
}
