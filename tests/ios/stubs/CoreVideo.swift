// Signatures of Core Video that the app uses.

@_exported import CoreGraphics
import Foundation

public final class CVBuffer {}  // swift: a Core Foundation type
public typealias CVImageBuffer = CVBuffer  // swift: a Core Foundation type
public typealias CVPixelBuffer = CVBuffer  // swift: a Core Foundation type
public typealias CVReturn = Int32  // swift: a C type
public typealias OSType = UInt32  // swift: of MacTypes

public let kCVReturnSuccess: CVReturn = 0  // objc: constant kCVReturnSuccess
public let kCVPixelBufferPixelFormatTypeKey: CFString = ""  // objc: constant kCVPixelBufferPixelFormatTypeKey
public let kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange: OSType = 0x34323076  // objc: constant kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange
public let kCVPixelFormatType_420YpCbCr8BiPlanarFullRange: OSType = 0x34323066  // objc: constant kCVPixelFormatType_420YpCbCr8BiPlanarFullRange

public struct CVPixelBufferLockFlags: OptionSet, Sendable {  // objc: enum CVPixelBufferLockFlags
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    public static var readOnly: CVPixelBufferLockFlags { fatalError() }  // objc: CVPixelBufferLockFlags.kCVPixelBufferLock_ReadOnly
}

public enum CVAttachmentMode: UInt32 {  // objc: enum CVAttachmentMode
    case shouldPropagate = 1  // objc: CVAttachmentMode.kCVAttachmentMode_ShouldPropagate
}

public func CVPixelBufferLockBaseAddress(_ pixelBuffer: CVPixelBuffer, _ lockFlags: CVPixelBufferLockFlags) -> CVReturn { fatalError() }  // objc: function CVPixelBufferLockBaseAddress
@discardableResult public func CVPixelBufferUnlockBaseAddress(_ pixelBuffer: CVPixelBuffer, _ unlockFlags: CVPixelBufferLockFlags) -> CVReturn { fatalError() }  // objc: function CVPixelBufferUnlockBaseAddress
public func CVPixelBufferGetWidth(_ pixelBuffer: CVPixelBuffer) -> Int { fatalError() }  // objc: function CVPixelBufferGetWidth
public func CVPixelBufferGetHeight(_ pixelBuffer: CVPixelBuffer) -> Int { fatalError() }  // objc: function CVPixelBufferGetHeight
public func CVPixelBufferGetHeightOfPlane(_ pixelBuffer: CVPixelBuffer, _ planeIndex: Int) -> Int { fatalError() }  // objc: function CVPixelBufferGetHeightOfPlane
public func CVPixelBufferGetPixelFormatType(_ pixelBuffer: CVPixelBuffer) -> OSType { fatalError() }  // objc: function CVPixelBufferGetPixelFormatType
public func CVPixelBufferGetPlaneCount(_ pixelBuffer: CVPixelBuffer) -> Int { fatalError() }  // objc: function CVPixelBufferGetPlaneCount
public func CVPixelBufferGetBaseAddressOfPlane(_ pixelBuffer: CVPixelBuffer, _ planeIndex: Int) -> UnsafeMutableRawPointer? { fatalError() }  // objc: function CVPixelBufferGetBaseAddressOfPlane
public func CVPixelBufferGetBytesPerRowOfPlane(_ pixelBuffer: CVPixelBuffer, _ planeIndex: Int) -> Int { fatalError() }  // objc: function CVPixelBufferGetBytesPerRowOfPlane
public func CVBufferCopyAttachment(_ buffer: CVBuffer, _ key: CFString, _ attachmentMode: UnsafeMutablePointer<CVAttachmentMode>?) -> AnyObject? { fatalError() }  // objc: function CVBufferCopyAttachment

public let kCVImageBufferYCbCrMatrixKey: CFString = ""  // objc: constant kCVImageBufferYCbCrMatrixKey
public let kCVImageBufferYCbCrMatrix_ITU_R_601_4: CFString = ""  // objc: constant kCVImageBufferYCbCrMatrix_ITU_R_601_4
public let kCVImageBufferYCbCrMatrix_ITU_R_709_2: CFString = ""  // objc: constant kCVImageBufferYCbCrMatrix_ITU_R_709_2
public let kCVImageBufferYCbCrMatrix_ITU_R_2020: CFString = ""  // objc: constant kCVImageBufferYCbCrMatrix_ITU_R_2020
public let kCVImageBufferTransferFunction_ITU_R_2100_HLG: CFString = ""  // objc: constant kCVImageBufferTransferFunction_ITU_R_2100_HLG
public let kCVImageBufferTransferFunction_SMPTE_ST_2084_PQ: CFString = ""  // objc: constant kCVImageBufferTransferFunction_SMPTE_ST_2084_PQ
