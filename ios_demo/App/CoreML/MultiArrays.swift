import CoreML
import Foundation
import MobileVideoGPTCore

extension MLMultiArray {
    /// An array of a feature's values, float32 or int32.
    static func make(_ feature: Feature) throws -> MLMultiArray {
        switch feature {
        case .float32(let tensor): try make(shape: tensor.shape, dataType: .float32, values: tensor.data)
        case .int32(let values): try make(shape: [values.count], dataType: .int32, values: values)
        }
    }

    private static func make<Value>(shape: [Int], dataType: MLMultiArrayDataType, values: [Value]) throws -> MLMultiArray {
        let array = try MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: dataType)
        array.withUnsafeMutableBytes { bytes, strides in
            let memory = bytes.bindMemory(to: Value.self)
            if let start = memory.baseAddress { StridedLayout(shape: shape, strides: strides).scatter(values, to: start) }
        }
        return array
    }

    /// The values as float32 in C order, padding left out.
    ///
    /// - Throws: `UnexpectedArray` where they are of another type: every output of a bundle is float32.
    func floatTensor() throws -> FloatTensor {
        guard dataType == .float32 else { throw UnexpectedArray(dataType: dataType.rawValue) }
        let layout = StridedLayout(shape: shape.map(\.intValue), strides: strides.map(\.intValue))
        return try withUnsafeBytes { bytes in
            let memory = bytes.bindMemory(to: Float.self)
            guard let start = memory.baseAddress, memory.count >= layout.span else { throw UnexpectedArray(dataType: dataType.rawValue) }
            return FloatTensor(shape: layout.shape, data: layout.gather(start))
        }
    }
}

/// An output that is no float32 array.
struct UnexpectedArray: LocalizedError {
    let dataType: Int
    var errorDescription: String? { "an output is of Core ML's type \(dataType) or too short, and float32 is expected" }
}
