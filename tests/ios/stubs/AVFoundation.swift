// Signatures of AVFoundation that the app uses. Nothing but values is marked Sendable, which is stricter than the SDK.

@_exported import CoreMedia
import Foundation

public struct AVMediaType: Hashable, Sendable {  // swift: an imported string type
    public static var video: AVMediaType { fatalError() }  // objc: constant AVMediaTypeVideo
}

open class AVAsset: NSObject {  // objc: class AVAsset
    public func loadTracks(withMediaType mediaType: AVMediaType) async throws -> [AVAssetTrack] { fatalError() }  // objc: -loadTracksWithMediaType:completionHandler:
}

open class AVURLAsset: AVAsset {  // objc: class AVURLAsset
    public init(url URL: URL, options: [String: Any]? = nil) { fatalError() }  // objc: +URLAssetWithURL:options:
}

public let AVURLAssetPreferPreciseDurationAndTimingKey: String = ""  // objc: constant AVURLAssetPreferPreciseDurationAndTimingKey

public struct AVAsyncProperty<Root, Value>: Sendable {}  // swift: overlay's type

extension AVAsyncProperty where Root: AVAssetTrack {  // swift: overlay's type
    public static var preferredTransform: AVAsyncProperty<Root, CGAffineTransform> { fatalError() }  // overlay of: AVAssetTrack.preferredTransform
    public static var nominalFrameRate: AVAsyncProperty<Root, Float> { fatalError() }  // overlay of: AVAssetTrack.nominalFrameRate
    public static var naturalTimeScale: AVAsyncProperty<Root, Int32> { fatalError() }  // overlay of: AVAssetTrack.naturalTimeScale
    public static var formatDescriptions: AVAsyncProperty<Root, [CMFormatDescription]> { fatalError() }  // overlay of: AVAssetTrack.formatDescriptions
    public static var timeRange: AVAsyncProperty<Root, CMTimeRange> { fatalError() }  // overlay of: AVAssetTrack.timeRange
}

open class AVAssetTrack: NSObject {  // objc: class AVAssetTrack
    public func load<Value: Sendable>(_ property: AVAsyncProperty<AVAssetTrack, Value>) async throws -> Value { fatalError() }  // swift: AVAsynchronousKeyValueLoading
}

open class AVAssetReader: NSObject {  // objc: class AVAssetReader
    public init(asset: AVAsset) throws { fatalError() }  // objc: -initWithAsset:error:
    public var timeRange: CMTimeRange { get { fatalError() } set { fatalError() } }  // objc: timeRange
    public var status: Status { fatalError() }  // objc: status
    public var error: (any Error)? { fatalError() }  // objc: error
    public func canAdd(_ output: AVAssetReaderOutput) -> Bool { fatalError() }  // objc: -canAddOutput:
    public func add(_ output: AVAssetReaderOutput) { fatalError() }  // objc: -addOutput:
    public func startReading() -> Bool { fatalError() }  // objc: -startReading
    public func cancelReading() { fatalError() }  // objc: -cancelReading
    public enum Status: Int, Sendable {  // objc: enum AVAssetReaderStatus
        case unknown = 0  // objc: AVAssetReaderStatus.Unknown
        case reading = 1  // objc: AVAssetReaderStatus.Reading
        case completed = 2  // objc: AVAssetReaderStatus.Completed
        case failed = 3  // objc: AVAssetReaderStatus.Failed
        case cancelled = 4  // objc: AVAssetReaderStatus.Cancelled
    }
}

open class AVAssetReaderOutput: NSObject {  // objc: class AVAssetReaderOutput
    public var alwaysCopiesSampleData: Bool { get { fatalError() } set { fatalError() } }  // objc: alwaysCopiesSampleData
    public func copyNextSampleBuffer() -> CMSampleBuffer? { fatalError() }  // objc: -copyNextSampleBuffer
}

open class AVAssetReaderTrackOutput: AVAssetReaderOutput {  // objc: class AVAssetReaderTrackOutput
    public init(track: AVAssetTrack, outputSettings: [String: Any]?) { fatalError() }  // objc: -initWithTrack:outputSettings:
}
