// What the app takes of the module os.

public func os_proc_available_memory() -> Int { fatalError() }  // objc: function os_proc_available_memory
