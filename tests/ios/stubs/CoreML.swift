// Signatures of Core ML that the app uses, for type checks without Apple's SDK. tests/ios/stub_check.py holds every `objc:` note against the
// Objective-C API. Nothing is marked Sendable here, which is stricter than the SDK.

import Foundation

open class MLModel: NSObject {  // objc: class MLModel
    public class func compileModel(at modelURL: URL) async throws -> URL { fatalError() }  // objc: +compileModelAtURL:completionHandler:
    public class func load(contentsOf url: URL, configuration: MLModelConfiguration = MLModelConfiguration()) async throws -> MLModel { fatalError() }  // objc: +loadContentsOfURL:configuration:completionHandler:
    public var modelDescription: MLModelDescription { fatalError() }  // objc: modelDescription
    public func makeState() -> MLState { fatalError() }  // objc: -newState
    public func prediction(from input: any MLFeatureProvider, options: MLPredictionOptions = MLPredictionOptions()) async throws -> any MLFeatureProvider { fatalError() }  // objc: -predictionFromFeatures:options:completionHandler:
    public func prediction(from inputFeatures: any MLFeatureProvider, using state: MLState, options: MLPredictionOptions = MLPredictionOptions()) async throws -> any MLFeatureProvider { fatalError() }  // objc: -predictionFromFeatures:usingState:options:completionHandler:
    public func prediction(from input: any MLFeatureProvider) throws -> any MLFeatureProvider { fatalError() }  // objc: -predictionFromFeatures:error:
    public func prediction(from inputFeatures: any MLFeatureProvider, using state: MLState) throws -> any MLFeatureProvider { fatalError() }  // objc: -predictionFromFeatures:usingState:error:
    public convenience init(contentsOf url: URL, configuration: MLModelConfiguration) throws { fatalError() }  // objc: +modelWithContentsOfURL:configuration:error:
}

open class MLModelDescription: NSObject {  // objc: class MLModelDescription
    public var inputDescriptionsByName: [String: MLFeatureDescription] { fatalError() }  // objc: inputDescriptionsByName
    public var outputDescriptionsByName: [String: MLFeatureDescription] { fatalError() }  // objc: outputDescriptionsByName
    public var stateDescriptionsByName: [String: MLFeatureDescription] { fatalError() }  // objc: stateDescriptionsByName
}

open class MLFeatureDescription: NSObject {  // objc: class MLFeatureDescription
    public var multiArrayConstraint: MLMultiArrayConstraint? { fatalError() }  // objc: multiArrayConstraint
}

open class MLMultiArrayConstraint: NSObject {  // objc: class MLMultiArrayConstraint
    public var shape: [NSNumber] { fatalError() }  // objc: shape
    public var dataType: MLMultiArrayDataType { fatalError() }  // objc: dataType
}

open class MLState: NSObject {}  // objc: class MLState

open class MLPredictionOptions: NSObject {}  // objc: class MLPredictionOptions

open class MLModelConfiguration: NSObject {  // objc: class MLModelConfiguration
    public var computeUnits: MLComputeUnits = .all  // objc: computeUnits
    public var functionName: String?  // objc: functionName
}

public enum MLComputeUnits: Int {  // objc: enum MLComputeUnits
    case cpuOnly = 0  // objc: MLComputeUnits.CPUOnly
    case cpuAndGPU = 1  // objc: MLComputeUnits.CPUAndGPU
    case all = 2  // objc: MLComputeUnits.All
    case cpuAndNeuralEngine = 3  // objc: MLComputeUnits.CPUAndNeuralEngine
}

public protocol MLFeatureProvider: AnyObject {  // objc: protocol MLFeatureProvider
    var featureNames: Set<String> { get }  // objc: featureNames
    func featureValue(for featureName: String) -> MLFeatureValue?  // objc: -featureValueForName:
}

open class MLDictionaryFeatureProvider: NSObject, MLFeatureProvider {  // objc: class MLDictionaryFeatureProvider
    public init(dictionary: [String: Any]) throws { fatalError() }  // objc: -initWithDictionary:error:
    public var featureNames: Set<String> { fatalError() }  // objc: featureNames
    public func featureValue(for featureName: String) -> MLFeatureValue? { fatalError() }  // objc: -featureValueForName:
}

open class MLFeatureValue: NSObject {  // objc: class MLFeatureValue
    public convenience init(multiArray value: MLMultiArray) { fatalError() }  // objc: +featureValueWithMultiArray:
    public var multiArrayValue: MLMultiArray? { fatalError() }  // objc: multiArrayValue
}

public enum MLMultiArrayDataType: Int {  // objc: enum MLMultiArrayDataType
    case float32 = 65568  // objc: MLMultiArrayDataType.Float32
    case float16 = 65552  // objc: MLMultiArrayDataType.Float16
    case int32 = 131104  // objc: MLMultiArrayDataType.Int32
}

open class MLMultiArray: NSObject {  // objc: class MLMultiArray
    public init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws { fatalError() }  // objc: -initWithShape:dataType:error:
    public var shape: [NSNumber] { fatalError() }  // objc: shape
    public var strides: [NSNumber] { fatalError() }  // objc: strides
    public var dataType: MLMultiArrayDataType { fatalError() }  // objc: dataType
    public func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R { fatalError() }  // overlay of: -getBytesWithHandler:
    public func withUnsafeMutableBytes<R>(_ body: (UnsafeMutableRawBufferPointer, [Int]) throws -> R) rethrows -> R { fatalError() }  // overlay of: -getMutableBytesWithHandler:
}
