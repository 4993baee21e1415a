// Signatures of Core Media that the app uses.

@_exported import CoreGraphics
@_exported import CoreVideo
import Foundation

public struct CMTime: Sendable, Equatable {  // objc: struct CMTime
    public var value: Int64  // objc: value
    public var timescale: Int32  // objc: timescale
    public var isNumeric: Bool { fatalError() }  // overlay of: flags
    public var seconds: Double { fatalError() }  // overlay of: function CMTimeGetSeconds
    public init(value: Int64, timescale: Int32) { fatalError() }  // overlay of: function CMTimeMake
    public static var zero: CMTime { fatalError() }  // objc: constant kCMTimeZero
}

public enum CMTimeRoundingMethod: UInt32 {  // objc: enum CMTimeRoundingMethod
    case roundHalfAwayFromZero = 1  // objc: CMTimeRoundingMethod.kCMTimeRoundingMethod_RoundHalfAwayFromZero
}

public func CMTimeConvertScale(_ time: CMTime, timescale newTimescale: Int32, method: CMTimeRoundingMethod) -> CMTime { fatalError() }  // objc: function CMTimeConvertScale

public struct CMTimeRange: Sendable, Equatable {  // objc: struct CMTimeRange
    public var start: CMTime  // objc: start
    public var duration: CMTime  // objc: duration
    public init(start: CMTime, duration: CMTime) { fatalError() }  // overlay of: function CMTimeRangeMake
    public func containsTime(_ time: CMTime) -> Bool { fatalError() }  // overlay of: function CMTimeRangeContainsTime
}

public typealias FourCharCode = UInt32  // swift: of MacTypes

public final class CMFormatDescription: @unchecked Sendable {  // swift: a Core Foundation type
    public var mediaSubType: MediaSubType { fatalError() }  // overlay of: function CMFormatDescriptionGetMediaSubType
    public struct MediaSubType: Sendable { public let rawValue: FourCharCode }  // swift: overlay's type
}

public func CMFormatDescriptionGetExtension(_ desc: CMFormatDescription, extensionKey: CFString) -> AnyObject? { fatalError() }  // objc: function CMFormatDescriptionGetExtension
public let kCMFormatDescriptionExtension_FullRangeVideo: CFString = ""  // objc: constant kCMFormatDescriptionExtension_FullRangeVideo
public let kCMFormatDescriptionExtension_TransferFunction: CFString = ""  // objc: constant kCMFormatDescriptionExtension_TransferFunction

public final class CMSampleBuffer {  // swift: a Core Foundation type
    public struct Flags: Sendable {}  // swift: unused
}

public func CMSampleBufferGetNumSamples(_ sbuf: CMSampleBuffer) -> Int { fatalError() }  // objc: function CMSampleBufferGetNumSamples
public func CMSampleBufferGetImageBuffer(_ sbuf: CMSampleBuffer) -> CVImageBuffer? { fatalError() }  // objc: function CMSampleBufferGetImageBuffer
public func CMSampleBufferGetPresentationTimeStamp(_ sbuf: CMSampleBuffer) -> CMTime { fatalError() }  // objc: function CMSampleBufferGetPresentationTimeStamp
public func CMSampleBufferGetSampleTimingInfo(_ sbuf: CMSampleBuffer, at sampleIndex: Int, timingInfoOut: UnsafeMutablePointer<CMSampleTimingInfo>) -> Int32 { fatalError() }  // objc: function CMSampleBufferGetSampleTimingInfo
public func CMSampleBufferGetSampleAttachmentsArray(_ sbuf: CMSampleBuffer, createIfNecessary: Bool) -> NSArray? { fatalError() }  // objc: function CMSampleBufferGetSampleAttachmentsArray
public let kCMSampleAttachmentKey_NotSync: CFString = ""  // objc: constant kCMSampleAttachmentKey_NotSync
public let kCMSampleAttachmentKey_DoNotDisplay: CFString = ""  // objc: constant kCMSampleAttachmentKey_DoNotDisplay

public struct CMSampleTimingInfo: Sendable {  // objc: struct CMSampleTimingInfo
    public var duration: CMTime  // objc: duration
    public var presentationTimeStamp: CMTime  // objc: presentationTimeStamp
    public init() { fatalError() }  // swift: of every C struct
}
