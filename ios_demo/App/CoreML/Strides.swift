import Foundation

/// Where the values of an array lie in memory. Core ML pads rows as its units like them, so only the strides say.
struct StridedLayout: Equatable {
    let shape: [Int]
    /// In elements, one for each axis.
    let strides: [Int]

    /// Elements, padding not counted.
    var count: Int { shape.reduce(1, *) }

    /// Elements from the first one to behind the last one.
    var span: Int { count == 0 ? 0 : zip(shape, strides).reduce(1) { $0 + ($1.0 - 1) * $1.1 } }

    /// Whether the values stand behind each other in C order. The stride of an axis of size 1 does not matter.
    var isContiguous: Bool {
        var expected = 1
        for (size, stride) in zip(shape, strides).reversed() {
            if size != 1 && stride != expected { return false }
            expected *= size
        }
        return true
    }

    /// The values in C order, taken from memory with this layout.
    func gather<Value>(_ memory: UnsafePointer<Value>) -> [Value] {
        if isContiguous { return Array(UnsafeBufferPointer(start: memory, count: count)) }
        var values: [Value] = []
        values.reserveCapacity(count)
        forEachRow { offset, size, stride in
            for column in 0..<size { values.append(memory[offset + column * stride]) }
        }
        return values
    }

    /// Puts values in C order into memory with this layout.
    func scatter<Value>(_ values: [Value], to memory: UnsafeMutablePointer<Value>) {
        precondition(values.count == count, "\(values.count) values for an array of shape \(shape)")
        var next = 0
        forEachRow { offset, size, stride in
            for column in 0..<size {
                memory[offset + column * stride] = values[next]
                next += 1
            }
        }
    }

    /// Calls `body` with the place, the size and the stride of each row of the last axis, in C order.
    private func forEachRow(_ body: (_ offset: Int, _ size: Int, _ stride: Int) -> Void) {
        guard let size = shape.last, let stride = strides.last, count > 0 else {
            if shape.isEmpty { body(0, 1, 1) }
            return
        }
        var index = [Int](repeating: 0, count: shape.count - 1)
        while true {
            body(zip(index, strides).reduce(0) { $0 + $1.0 * $1.1 }, size, stride)
            var axis = index.count - 1
            while axis >= 0 {
                index[axis] += 1
                if index[axis] < shape[axis] { break }
                index[axis] = 0
                axis -= 1
            }
            if axis < 0 { return }
        }
    }
}
