@preconcurrency import Darwin
import Foundation
import MobileVideoGPTCore
import os

/// What the app takes of the device, as iOS counts it.
enum Device {
    /// Bytes of the app's footprint, by which iOS decides whom to end; 0 where it cannot be read.
    static var footprint: Int { vmInfo.map { Int($0.phys_footprint) } ?? 0 }

    /// The largest footprint since the app was started, in bytes.
    static var peakFootprint: Int { vmInfo.map { Int($0.ledger_phys_footprint_peak) } ?? 0 }

    /// Bytes that the app may still take before iOS ends it. The simulator has no limit and says 0: there the machine's memory counts.
    static var availableBytes: Int {
        let available = Int(os_proc_available_memory())
        return available > 0 ? available : Int(ProcessInfo.processInfo.physicalMemory)
    }

    /// `nominal`, `fair`, `serious`, `critical` or `unknown`.
    static var thermalState: String {
        switch ProcessInfo.processInfo.thermalState {
        case .nominal: "nominal"
        case .fair: "fair"
        case .serious: "serious"
        case .critical: "critical"
        @unknown default: "unknown"
        }
    }

    /// Apple's name of the model, `iPhone17,1` for example.
    static var model: String {
        var system = utsname()
        guard uname(&system) == 0 else { return "unknown" }
        return withUnsafeBytes(of: &system.machine) { bytes in String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self) }
    }

    private static var vmInfo: task_vm_info_data_t? {
        var info = task_vm_info_data_t()
        var count = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size)
        let status = withUnsafeMutablePointer(to: &info) { pointer in
            pointer.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
                task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &count)
            }
        }
        return status == KERN_SUCCESS ? info : nil
    }
}

/// The device as a benchmark reports it.
struct Meter: DeviceMeter {
    /// When the app began, on the clock of `monotonicSeconds`: set first of all, so that a cold start is counted.
    static let started = monotonicSeconds()

    var device: String { "cpu" }  // the host's code runs there; the backend's name says where the graphs do
    var threads: Int { ProcessInfo.processInfo.activeProcessorCount }
    var versions: [String: String] {
        let app = Bundle.main.object(forInfoDictionaryKey: "CFBundleShortVersionString") as? String
        let system = ProcessInfo.processInfo.operatingSystemVersionString
        return ["phone": Device.model, "ios": system, "app": app ?? "unknown"]
    }

    func peakBytes() -> Int { Device.peakFootprint }
    func processAgeSeconds() -> Double { monotonicSeconds() - Self.started }
    func thermalState() -> String { Device.thermalState }
}

/// An error of the system in one line.
func oneLine(_ error: any Error) -> String {
    (error as NSError).localizedDescription.split(whereSeparator: \.isNewline).joined(separator: " ")
}
