// Signatures of Core Graphics that the app uses. CGFloat, CGPoint, CGSize and CGRect are in Linux's Foundation too.

import Foundation

public struct CGAffineTransform: Sendable {  // objc: struct CGAffineTransform
    public var a: CGFloat  // objc: a
    public var b: CGFloat  // objc: b
    public var c: CGFloat  // objc: c
    public var d: CGFloat  // objc: d
    public var tx: CGFloat  // objc: tx
    public var ty: CGFloat  // objc: ty
}

public typealias CFData = Data  // swift: bridged, which on Linux is the same type

public final class CGColorSpace: @unchecked Sendable {  // swift: a Core Foundation type
    public init?(name: CFString) { fatalError() }  // objc: function CGColorSpaceCreateWithName
    public class var sRGB: CFString { fatalError() }  // objc: constant kCGColorSpaceSRGB
}

public typealias CFString = String  // swift: bridged, which on Linux is the same type

public final class CGDataProvider {  // swift: a Core Foundation type
    public init?(data: CFData) { fatalError() }  // objc: function CGDataProviderCreateWithCFData
}

public struct CGBitmapInfo: OptionSet, Sendable {  // objc: enum CGBitmapInfo
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
}

public enum CGImageAlphaInfo: UInt32 {  // objc: enum CGImageAlphaInfo
    case none = 0  // objc: CGImageAlphaInfo.kCGImageAlphaNone
}

public enum CGColorRenderingIntent: Int32 {  // objc: enum CGColorRenderingIntent
    case defaultIntent = 0  // objc: CGColorRenderingIntent.kCGRenderingIntentDefault
}

public final class CGImage: @unchecked Sendable {  // swift: a Core Foundation type
    public init?(width: Int, height: Int, bitsPerComponent: Int, bitsPerPixel: Int, bytesPerRow: Int, space: CGColorSpace, bitmapInfo: CGBitmapInfo, provider: CGDataProvider, decode: UnsafePointer<CGFloat>?, shouldInterpolate: Bool, intent: CGColorRenderingIntent) { fatalError() }  // objc: function CGImageCreate
}
