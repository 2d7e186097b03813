// Compiles HLSL files with Microsoft's DXC, as wgpu does, and prints what it has to say about each.
//
//   dxc LIBRARY THREADS OPTION... -- FILE...
//
// One line for each message. Exit status: 0 when no file has one, 1 when some have, 2 when DXC cannot be used.

#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "dxcapi.h"

using Text = std::vector<std::wstring>;

// Where there is no library to sign DXIL with, DXC says so for every file; nothing here is to be released.
static const std::string UNSIGNED = "DXIL.dll not found";

static std::string messages(IDxcCompiler3 *compiler, const Text &options, const std::string &file) {
    std::ifstream stream(file, std::ios::binary);
    std::string source((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
    if (!stream || source.empty()) return "error: cannot be read\n";
    std::vector<LPCWSTR> arguments;
    for (const auto &option : options) arguments.push_back(option.c_str());
    DxcBuffer buffer = {source.data(), source.size(), DXC_CP_UTF8};
    CComPtr<IDxcResult> result;
    HRESULT called =
        compiler->Compile(&buffer, arguments.data(), arguments.size(), nullptr, IID_PPV_ARGS(&result));
    HRESULT status = E_FAIL;
    if (FAILED(called) || FAILED(result->GetStatus(&status))) return "error: DXC gave up\n";
    CComPtr<IDxcBlobUtf8> said;
    result->GetOutput(DXC_OUT_ERRORS, IID_PPV_ARGS(&said), nullptr);
    std::string text = said ? std::string(said->GetStringPointer(), said->GetStringLength()) : std::string();
    CComPtr<IDxcBlob> object;
    result->GetOutput(DXC_OUT_OBJECT, IID_PPV_ARGS(&object), nullptr);
    if (FAILED(status) || !object || object->GetBufferSize() == 0) text += "error: no DXIL\n";
    return text;
}

int main(int count, char **words) {
    if (count < 5) return std::fprintf(stderr, "dxc LIBRARY THREADS OPTION... -- FILE...\n"), 2;
    void *library = dlopen(words[1], RTLD_NOW);
    if (!library) return std::fprintf(stderr, "%s\n", dlerror()), 2;
    auto create = reinterpret_cast<DxcCreateInstanceProc>(dlsym(library, "DxcCreateInstance"));
    Text options;
    std::vector<std::string> files;
    int at = 3;
    for (; at < count && std::string(words[at]) != "--"; at++) options.emplace_back(words[at], words[at] + std::string(words[at]).size());
    for (at++; at < count; at++) files.emplace_back(words[at]);

    std::atomic<size_t> next{0}, with_messages{0};
    std::atomic<bool> usable{create != nullptr};
    std::mutex printing;
    auto work = [&] {
        CComPtr<IDxcCompiler3> compiler;
        if (!create || FAILED(create(CLSID_DxcCompiler, IID_PPV_ARGS(&compiler)))) { usable = false; return; }
        for (size_t each; (each = next++) < files.size();) {
            std::istringstream lines(messages(compiler, options, files[each]));
            bool any = false;
            for (std::string line; std::getline(lines, line);) {
                bool speaks = line.find("error") != std::string::npos || line.find("warning") != std::string::npos;
                if (!speaks || line.find(UNSIGNED) != std::string::npos) continue;
                std::lock_guard<std::mutex> one(printing);
                std::printf("%s: %s\n", files[each].c_str(), line.c_str());
                any = true;
            }
            with_messages += any;
        }
    };
    std::vector<std::thread> threads;
    for (int thread = 0; thread < std::atoi(words[2]); thread++) threads.emplace_back(work);
    for (auto &thread : threads) thread.join();
    if (!usable) return std::fprintf(stderr, "%s gives no compiler\n", words[1]), 2;
    std::printf("%zu of %zu files with messages\n", with_messages.load(), files.size());
    return with_messages ? 1 : 0;
}
