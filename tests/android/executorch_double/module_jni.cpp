// The native half of the double: runs `.pte` files on the JVM of this machine, as ExecuTorch's Android library does on a phone.
//
// It is linked to the runtime that the executorch wheel carries for Python, so the graphs run on the same kernels and delegate as in
// `runtime_py`. Like the Android library it maps a file, verifies its header only, gives the process's thread pool the number of threads
// that a module asks for, and hands out tensors that lie in the method's own memory: they hold until its next run.

#include <fcntl.h>
#include <jni.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/core/exec_aten/exec_aten.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/kernel/operator_registry.h>
#include <executorch/runtime/platform/runtime.h>

// From executorch/extension/threadpool/threadpool.h, which includes a header that the wheel lacks.
namespace executorch::extension::threadpool {
class ThreadPool final {
 public:
  bool _unsafe_reset_threadpool(uint32_t new_thread_count);  // does nothing where the number stays
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;
using executorch::runtime::DataLoader;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::FreeableBuffer;
using executorch::runtime::HierarchicalAllocator;
using executorch::runtime::MemoryAllocator;
using executorch::runtime::MemoryManager;
using executorch::runtime::Method;
using executorch::runtime::MethodMeta;
using executorch::runtime::Program;
using executorch::runtime::Result;
using executorch::runtime::Span;

constexpr int kTensorTypeCode = 1;  // of EValue.mTypeCode

// A file mapped into memory. What it hands out are parts of the mapping, which it keeps.
class MappedFile final : public DataLoader {
 public:
  explicit MappedFile(const char* path) {
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    struct stat status;
    if (fstat(file, &status) == 0 && status.st_size > 0) {
      void* mapped = mmap(nullptr, status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
      if (mapped != MAP_FAILED) {
        data_ = static_cast<const uint8_t*>(mapped);
        size_ = status.st_size;
      }
    }
    close(file);
  }

  ~MappedFile() override {
    if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
  }

  Result<FreeableBuffer> load(size_t offset, size_t size, const SegmentInfo&) const override {
    if (!holds(offset, size)) return Error::InvalidArgument;
    return FreeableBuffer(data_ + offset, size, nullptr);
  }

  Error load_into(size_t offset, size_t size, const SegmentInfo&, void* buffer) const override {
    if (!holds(offset, size)) return Error::InvalidArgument;
    std::memcpy(buffer, data_ + offset, size);
    return Error::Ok;
  }

  Result<size_t> size() const override {
    if (data_ == nullptr) return Error::AccessFailed;
    return size_;
  }

 private:
  bool holds(size_t offset, size_t size) const { return data_ != nullptr && offset <= size_ && size <= size_ - offset; }

  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// As much as is asked for, all of it freed at `reset`.
class Heap final : public MemoryAllocator {
 public:
  Heap() : MemoryAllocator(0, nullptr) {}
  ~Heap() override { release(); }

  void* allocate(size_t size, size_t alignment = kDefaultAlignment) override {
    if (!isPowerOf2(alignment)) return nullptr;
    if (alignment < sizeof(void*)) alignment = sizeof(void*);
    void* block = nullptr;
    if (posix_memalign(&block, alignment, size == 0 ? 1 : size) != 0) return nullptr;
    blocks_.push_back(block);
    return block;
  }

  void reset() override { release(); }

 private:
  void release() {
    for (void* block : blocks_) std::free(block);
    blocks_.clear();
  }

  std::vector<void*> blocks_;
};

// A loaded method and the memory that it works in, which has to outlive it.
struct LoadedMethod {
  std::vector<std::unique_ptr<uint8_t[]>> buffers;
  std::vector<Span<uint8_t>> spans;
  Heap structures, temporary;
  std::unique_ptr<HierarchicalAllocator> planned;
  std::unique_ptr<MemoryManager> memory;
  std::unique_ptr<Method> method;
};

struct LoadedModule {
  std::unique_ptr<MappedFile> file;
  std::unique_ptr<Program> program;
  std::map<std::string, std::unique_ptr<LoadedMethod>> methods;
};

void raise(JNIEnv* env, Error error, const std::string& details) {
  jclass type = env->FindClass("org/pytorch/executorch/ExecutorchRuntimeException");
  jmethodID make = env->GetStaticMethodID(type, "makeExecutorchException", "(ILjava/lang/String;)Ljava/lang/RuntimeException;");
  jobject exception = env->CallStaticObjectMethod(type, make, static_cast<jint>(error), env->NewStringUTF(details.c_str()));
  if (!env->ExceptionCheck()) env->Throw(static_cast<jthrowable>(exception));
}

std::string text(JNIEnv* env, jstring value) {
  const char* characters = env->GetStringUTFChars(value, nullptr);
  std::string copy(characters);
  env->ReleaseStringUTFChars(value, characters);
  return copy;
}

jobjectArray strings(JNIEnv* env, const std::vector<std::string>& values) {
  jobjectArray array = env->NewObjectArray(static_cast<jsize>(values.size()), env->FindClass("java/lang/String"), nullptr);
  for (size_t i = 0; i < values.size(); ++i) {
    jstring value = env->NewStringUTF(values[i].c_str());
    env->SetObjectArrayElement(array, static_cast<jsize>(i), value);
    env->DeleteLocalRef(value);
  }
  return array;
}

Error load(LoadedModule& module, const std::string& name) {
  if (module.methods.count(name) != 0) return Error::Ok;
  Result<MethodMeta> meta = module.program->method_meta(name.c_str());
  if (!meta.ok()) return meta.error();
  auto loaded = std::make_unique<LoadedMethod>();
  for (size_t i = 0; i < meta->num_memory_planned_buffers(); ++i) {
    Result<int64_t> size = meta->memory_planned_buffer_size(i);
    if (!size.ok()) return size.error();
    loaded->buffers.emplace_back(new uint8_t[size.get()]);
    loaded->spans.emplace_back(loaded->buffers.back().get(), size.get());
  }
  loaded->planned = std::make_unique<HierarchicalAllocator>(Span<Span<uint8_t>>(loaded->spans.data(), loaded->spans.size()));
  loaded->memory = std::make_unique<MemoryManager>(&loaded->structures, loaded->planned.get(), &loaded->temporary);
  Result<Method> method = module.program->load_method(name.c_str(), loaded->memory.get());
  if (!method.ok()) return method.error();
  loaded->method = std::make_unique<Method>(std::move(method.get()));
  module.methods[name] = std::move(loaded);
  return Error::Ok;
}

// An input of a run: the tensor over a direct buffer, and what describes it.
struct Input {
  std::vector<executorch::aten::SizesType> sizes;
  std::vector<executorch::aten::DimOrderType> order;
  std::vector<executorch::aten::StridesType> strides;
  std::unique_ptr<TensorImpl> tensor;
};

// Reads an `org.pytorch.executorch.EValue`; false, with an exception raised, where it is no tensor over a direct buffer of its size.
bool read(JNIEnv* env, jobject value, Input& input) {
  jclass value_type = env->GetObjectClass(value);
  if (env->GetIntField(value, env->GetFieldID(value_type, "mTypeCode", "I")) != kTensorTypeCode) {
    raise(env, Error::InvalidArgument, "the double takes tensors only");
    return false;
  }
  jobject tensor = env->CallObjectMethod(value, env->GetMethodID(value_type, "toTensor", "()Lorg/pytorch/executorch/Tensor;"));
  jclass tensor_type = env->FindClass("org/pytorch/executorch/Tensor");
  const jint dtype = env->CallIntMethod(tensor, env->GetMethodID(tensor_type, "dtypeJniCode", "()I"));
  auto shape = static_cast<jlongArray>(env->CallObjectMethod(tensor, env->GetMethodID(tensor_type, "shape", "()[J")));
  jobject buffer = env->CallObjectMethod(tensor, env->GetMethodID(tensor_type, "getRawDataBuffer", "()Ljava/nio/Buffer;"));
  if (env->ExceptionCheck()) return false;
  const jsize rank = env->GetArrayLength(shape);
  std::vector<jlong> sizes(rank);
  env->GetLongArrayRegion(shape, 0, rank, sizes.data());
  int64_t elements = 1;
  for (jlong size : sizes) elements *= size;
  if (env->GetDirectBufferCapacity(buffer) != elements) {
    raise(env, Error::InvalidArgument, "a tensor's shape and its buffer's capacity differ");
    return false;
  }
  input.sizes.assign(sizes.begin(), sizes.end());
  input.strides.assign(rank, 1);
  for (jsize i = rank - 1; i > 0; --i) input.strides[i - 1] = input.strides[i] * input.sizes[i];
  for (jsize i = 0; i < rank; ++i) input.order.push_back(static_cast<executorch::aten::DimOrderType>(i));
  input.tensor = std::make_unique<TensorImpl>(
      static_cast<ScalarType>(dtype), rank, input.sizes.data(), env->GetDirectBufferAddress(buffer), input.order.data(),
      input.strides.data());
  return true;
}

// An `EValue` over a tensor's memory, or null with an exception raised.
jobject write(JNIEnv* env, const EValue& value) {
  if (!value.isTensor()) {
    raise(env, Error::InvalidType, "the double gives tensors only");
    return nullptr;
  }
  const Tensor& tensor = value.toTensor();
  std::vector<jlong> sizes(tensor.sizes().begin(), tensor.sizes().end());
  jlongArray shape = env->NewLongArray(static_cast<jsize>(sizes.size()));
  env->SetLongArrayRegion(shape, 0, static_cast<jsize>(sizes.size()), sizes.data());
  jobject bytes = env->NewDirectByteBuffer(tensor.mutable_data_ptr(), static_cast<jlong>(tensor.nbytes()));
  jclass tensor_type = env->FindClass("org/pytorch/executorch/Tensor");
  jmethodID make = env->GetStaticMethodID(tensor_type, "nativeNewTensor", "(Ljava/nio/ByteBuffer;[JI)Lorg/pytorch/executorch/Tensor;");
  jobject made = env->CallStaticObjectMethod(tensor_type, make, bytes, shape, static_cast<jint>(tensor.scalar_type()));
  if (env->ExceptionCheck()) return nullptr;
  jclass value_type = env->FindClass("org/pytorch/executorch/EValue");
  jmethodID from = env->GetStaticMethodID(value_type, "from", "(Lorg/pytorch/executorch/Tensor;)Lorg/pytorch/executorch/EValue;");
  return env->CallStaticObjectMethod(value_type, from, made);
}

}  // namespace

extern "C" {

JNIEXPORT jint JNICALL JNI_OnLoad(JavaVM*, void*) {
  executorch::runtime::runtime_init();
  return JNI_VERSION_1_8;
}

JNIEXPORT jlong JNICALL Java_org_pytorch_executorch_Module_loadNative(JNIEnv* env, jclass, jstring path, jint threads) {
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (pool != nullptr && threads != 0) pool->_unsafe_reset_threadpool(threads);
  auto module = std::make_unique<LoadedModule>();
  module->file = std::make_unique<MappedFile>(text(env, path).c_str());
  Result<Program> program = Program::load(module->file.get(), Program::Verification::Minimal);
  if (!program.ok()) {
    raise(env, program.error(), "cannot load the program");
    return 0;
  }
  module->program = std::make_unique<Program>(std::move(program.get()));
  return reinterpret_cast<jlong>(module.release());
}

JNIEXPORT jobjectArray JNICALL Java_org_pytorch_executorch_Module_methodsNative(JNIEnv* env, jclass, jlong handle) {
  auto& module = *reinterpret_cast<LoadedModule*>(handle);
  std::vector<std::string> names;
  for (size_t i = 0; i < module.program->num_methods(); ++i) names.emplace_back(module.program->get_method_name(i).get());
  return strings(env, names);
}

JNIEXPORT jint JNICALL Java_org_pytorch_executorch_Module_loadMethodNative(JNIEnv* env, jclass, jlong handle, jstring name) {
  return static_cast<jint>(load(*reinterpret_cast<LoadedModule*>(handle), text(env, name)));
}

JNIEXPORT jobjectArray JNICALL
Java_org_pytorch_executorch_Module_executeNative(JNIEnv* env, jclass, jlong handle, jstring name, jobjectArray values) {
  auto& module = *reinterpret_cast<LoadedModule*>(handle);
  const std::string method_name = text(env, name);
  if (const Error error = load(module, method_name); error != Error::Ok) {
    raise(env, error, "Execution failed for method: " + method_name);
    return nullptr;
  }
  Method& method = *module.methods[method_name]->method;
  std::vector<Input> inputs(env->GetArrayLength(values));
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!read(env, env->GetObjectArrayElement(values, static_cast<jsize>(i)), inputs[i])) return nullptr;
    if (const Error error = method.set_input(EValue(Tensor(inputs[i].tensor.get())), i); error != Error::Ok) {
      raise(env, error, "Execution failed for method: " + method_name);
      return nullptr;
    }
  }
  if (const Error error = method.execute(); error != Error::Ok) {
    raise(env, error, "Execution failed for method: " + method_name);
    return nullptr;
  }
  jobjectArray outputs =
      env->NewObjectArray(static_cast<jsize>(method.outputs_size()), env->FindClass("org/pytorch/executorch/EValue"), nullptr);
  for (size_t i = 0; i < method.outputs_size(); ++i) {
    jobject output = write(env, method.get_output(i));
    if (output == nullptr) return nullptr;
    env->SetObjectArrayElement(outputs, static_cast<jsize>(i), output);
  }
  return outputs;
}

JNIEXPORT void JNICALL Java_org_pytorch_executorch_Module_destroyNative(JNIEnv*, jclass, jlong handle) {
  delete reinterpret_cast<LoadedModule*>(handle);
}

JNIEXPORT jobjectArray JNICALL Java_org_pytorch_executorch_ExecuTorchRuntime_getRegisteredOps(JNIEnv* env, jclass) {
  std::vector<std::string> names;
  for (const auto& kernel : executorch::runtime::get_registered_kernels()) names.emplace_back(kernel.name_);
  return strings(env, names);
}

JNIEXPORT jobjectArray JNICALL Java_org_pytorch_executorch_ExecuTorchRuntime_getRegisteredBackends(JNIEnv* env, jclass) {
  std::vector<std::string> names;
  for (size_t i = 0; i < executorch::runtime::get_num_registered_backends(); ++i) {
    names.emplace_back(executorch::runtime::get_backend_name(i).get());
  }
  return strings(env, names);
}

}  // extern "C"
