// Calls the parser as gst-nvinfer does, with plain arrays in and out, for tests/deploy.
#include <cstring>
#include <string>

#include "nvdsinfer_yolo_pose.h"

extern "C" bool NvDsInferParseEmbeddedPoses(std::vector<NvDsInferLayerInfo> const&,
                                            NvDsInferNetworkInfo const&,
                                            NvDsInferParseDetectionParams const&,
                                            std::vector<NvDsInferInstanceMaskInfo>&);

static NvDsInferLayerInfo layer(const char* name, NvDsInferDataType type, const void* data,
                                unsigned int rows, unsigned int columns) {
    NvDsInferLayerInfo info{};
    info.dataType = type;
    info.inferDims.numDims = 2;
    info.inferDims.d[0] = rows, info.inferDims.d[1] = columns;
    info.inferDims.numElements = rows * columns;
    info.layerName = name;
    info.buffer = const_cast<void*>(data);
    return info;
}

// Rows of left, top, width, height, score, class, then 3 K mask values; the number of rows, or -1
// where the parser refuses. frame 0 x 0: the exported function. broken: an output to leave out.
extern "C" int run_parser(const int* count, const int* indices, const float* boxes,
                          const float* poses, const float* scores, int topk, int nkpt,
                          int net_w, int net_h, int frame_w, int frame_h, int classes,
                          float threshold, const char* broken, float* out) {
    const unsigned int k = topk, values = 3 * nkpt;
    std::vector<NvDsInferLayerInfo> all = {
        layer("det_scores", FLOAT, scores, k, 1), layer("det_pose", FLOAT, poses, k, values),
        layer("num_dets", INT32, count, 1, 1), layer("det_boxes", FLOAT, boxes, k, 4),
        layer("det_indices", INT32, indices, k, 3)};
    std::vector<NvDsInferLayerInfo> layers;
    for (const auto& one : all)
        if (std::strcmp(one.layerName, broken)) layers.push_back(one);
    NvDsInferNetworkInfo network{};
    network.width = net_w, network.height = net_h, network.channels = 3;
    NvDsInferParseDetectionParams params{};
    params.numClassesConfigured = classes;
    params.perClassPreclusterThreshold.assign(classes, threshold);
    std::vector<NvDsInferInstanceMaskInfo> objects;
    const bool done =
        frame_w ? yolo_pose::parse(layers, network, params,
                                   {unsigned(frame_w), unsigned(frame_h)}, objects)
                : NvDsInferParseEmbeddedPoses(layers, network, params, objects);
    if (!done) return -1;
    for (const auto& object : objects) {
        if (object.mask_size != values * sizeof(float) ||
            object.mask_width * object.mask_height != values)
            return -2;
        const float head[] = {object.left, object.top, object.width, object.height,
                              object.detectionConfidence, float(object.classId)};
        std::memcpy(out, head, sizeof head);
        std::memcpy(out + 6, object.mask, object.mask_size);
        out += 6 + values;
        delete[] object.mask;
    }
    return int(objects.size());
}
