// What Apple's Foundation has and Linux's has not: the type check imports it into every file of the app.

import Foundation

extension ProcessInfo {  // objc: class NSProcessInfo
    public var thermalState: ThermalState { fatalError() }  // objc: thermalState
    public enum ThermalState: Int, Sendable {  // objc: enum NSProcessInfoThermalState
        case nominal = 0  // objc: NSProcessInfoThermalState.Nominal
        case fair = 1  // objc: NSProcessInfoThermalState.Fair
        case serious = 2  // objc: NSProcessInfoThermalState.Serious
        case critical = 3  // objc: NSProcessInfoThermalState.Critical
    }
}

extension URLResourceKey {  // swift: an imported string type
    public static var volumeAvailableCapacityForImportantUsageKey: URLResourceKey { fatalError() }  // objc: constant NSURLVolumeAvailableCapacityForImportantUsageKey
}

extension URLResourceValues {  // swift: overlay's type
    public var volumeAvailableCapacityForImportantUsage: Int64? { fatalError() }  // overlay of: constant NSURLVolumeAvailableCapacityForImportantUsageKey
}

public func autoreleasepool<Result>(invoking body: () throws -> Result) rethrows -> Result { try body() }  // swift: of the module ObjectiveC
