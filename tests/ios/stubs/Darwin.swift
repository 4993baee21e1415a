// What the app takes of Darwin's C library and is not in Linux's.

import Foundation

public typealias natural_t = UInt32  // swift: a C type
public typealias integer_t = Int32  // swift: a C type
public typealias kern_return_t = Int32  // swift: a C type
public typealias mach_port_t = UInt32  // swift: a C type
public typealias mach_msg_type_number_t = UInt32  // swift: a C type
public typealias task_flavor_t = UInt32  // swift: a C type

public struct task_vm_info_data_t {  // objc: struct task_vm_info
    public var phys_footprint: UInt64 = 0  // objc: phys_footprint
    public var ledger_phys_footprint_peak: Int64 = 0  // objc: ledger_phys_footprint_peak
    public init() {}  // swift: of every C struct
}

public nonisolated(unsafe) var mach_task_self_: mach_port_t = 0  // objc: constant mach_task_self_
public let TASK_VM_INFO: Int32 = 22  // swift: a macro
public let KERN_SUCCESS: kern_return_t = 0  // swift: a macro
public func task_info(_ target_task: mach_port_t, _ flavor: task_flavor_t, _ task_info_out: UnsafeMutablePointer<integer_t>, _ task_info_outCnt: UnsafeMutablePointer<mach_msg_type_number_t>) -> kern_return_t { fatalError() }  // objc: function task_info
