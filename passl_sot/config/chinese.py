"""All that is said in Chinese, in one table: most Paddle users read it.

An error or a line of the log is English, with a short Chinese line behind it, which code names by its key.
"""

from collections.abc import Iterable

# One phrase for each kind of fault in a configuration (`Fault.kind`).
KINDS = {
    "unknown": "未知的配置项",
    "missing": "缺少必需的配置项",
    "type": "值的类型不对",
    "choice": "值不在可选范围内",
    "name": "未注册的名称",
    "file": "无法读取配置文件",
    "yaml": "YAML 格式错误",
    "duplicate": "重复的配置项",
    "base": "_base_ 有误",
    "reference": "${...} 引用有误",
    "value": "取值不合理",
    "override": "命令行 -o 参数有误",
}

CHINESE = {
    # bench
    "peer_missing": "该解释器未安装对比所需的库",
    "peer_plain_files": "对比程序只能读取普通文件",
    # cli
    "batch_reduced": "已减小",
    "checksums_right": "校验通过",
    "held_out": "自动划分验证集",
    # data
    "balanced_exclusive": "balanced 不能与 repeats 或 shuffle: false 同用",
    "balanced_multi_label": "多标签数据不支持 balanced",
    "class_count_differs": "模型类别数与数据不符，请设 model.head.num_classes={count}",
    "class_order_differs": "训练集与验证集类别顺序不一致",
    "classes_differ": "训练集与验证集类别不一致",
    "empty_classes": "有类别没有图像",
    "fewer_images_than_batch": "训练图像数少于一个批次，请减小 batch_size 或设 drop_last: false",
    "image_unreadable": "图像无法读取",
    "labels_from_one": "标签似乎从 1 开始，应从 0 开始",
    "labels_out_of_range": "标签超出范围，应从 0 开始",
    "shared_files": "训练集与验证集有相同的文件",
    "splits_must_agree": "训练与验证集须一致",
    "val_batch_transforms": "验证集不应设置 batch_transforms",
    "val_labels_beyond_train": "验证集标签超出训练集类别数",
    "val_sampler": "验证集的 {setting} 应为 {only}",
    # data/datasets
    "folder_has_other_files": "目标目录中有其他文件，请换一个目录",
    "folder_layout": "数据目录应为 train/<类别>/*.jpg 与 val/<类别>/*.jpg，dataroot 分别指向 train 与 val。",
    "label_beyond_classes": "标签超出类别数",
    "label_count_not_class_count": "标签数与类别数不一致",
    "label_counts_differ": "各行标签数不一致",
    "label_not_integer": "标签必须是整数",
    "label_too_large": "标签过大",
    "label_twice": "标签重复",
    "labels_from_zero": "标签从 0 开始",
    "list_is_empty": "列表文件为空，每行应为“路径 标签”",
    "list_line_form": "每行应为“路径 标签”",
    "list_unreadable": "无法读取列表文件",
    "list_without_labels": "列表文件没有标签",
    "multi_hot_values": "multi_hot 的标签只能为 0 和 1",
    "multi_label_line_form": "多标签的每行应为“路径 0,3”",
    "packed_too_small": "打包图像的短边小于输入尺寸",
    "part_multi_label": "多标签数据不支持 part",
    "save_as_utf8": "请将文件保存为 UTF-8 编码",
    "scikit_learn_missing": "缺少 scikit-learn，请先 pip install scikit-learn",
    "splits_packed_differently": "训练与验证数据格式不一致",
    "two_images_per_class": "每类至少需要两张图像",
    # data/loader
    "install_fast": "安装 [fast] 可加快数据读取",
    "main_guard": "请把执行代码放在该判断之下",
    "move_to_module": "请移到独立模块，或设 num_workers: 0",
    "reading_timeout": "数据读取超时，请检查磁盘或网络存储",
    "too_many_unreadable": "无法读取的图像过多",
    "unreadable_in_a_row": "连续多张图像无法读取",
    "worker_died": "数据读取进程意外退出，多为内存不足",
    "workers_not_started": "无法启动数据读取进程",
    # data/packed
    "disk_faulty": "磁盘读写不一致",
    "disk_full": "磁盘已满，清理后请再次运行",
    "disk_too_small": "磁盘空间不足",
    "folder_being_packed": "另一个进程正在写入该目录",
    "folder_missing": "目录不存在",
    "folder_not_empty": "目录不为空，请换一个",
    "index_damaged": "索引文件已损坏",
    "index_version": "索引格式版本不符",
    "label_invalid": "标签无效",
    "no_images": "没有图像",
    "no_tar": "没有该 tar 文件",
    "not_a_tar": "不是普通 tar 文件或已损坏",
    "not_an_index": "不是打包数据的索引文件",
    "not_packed": "不是打包目录",
    "other_packed_data": "该目录已有其他打包数据",
    "other_unfinished_packing": "该目录有未完成的其他打包数据",
    "packed_already": "已打包完成",
    "packed_parent_folder": "请将 dataroot 指向其中一个",
    "packer_died": "打包进程意外终止",
    "packing_done": "打包完成",
    "packing_unfinished": "打包未完成，请再次运行同一命令",
    "raw_as_source": "不能以 --raw 打包的数据为来源",
    "remove_folder": "请删除该目录",
    "shard_changed": "打包文件在打包期间被更改",
    "shard_damaged": "打包文件已损坏",
    "shard_missing": "打包文件缺失或不完整",
    "tar_sample": "样本缺少标签或有多张图像",
    "tar_truncated": "tar 文件不完整",
    # data/transforms
    "image_too_small": "图像过小",
    "mixup_classes": "标签超出 Mixup.num_classes",
    "normalize_channels": "Normalize 的均值个数与通道数不符",
    "rgb_only": "该变换只支持 RGB",
    # engine
    "amp_cpu": "CPU 上混合精度无效，使用 float32",
    "channels_differ": "通道数不符",
    "checkpoint_classes": "类别不一致",
    "folder_holds_run": "该目录已有训练结果：加 --resume auto 继续，或换目录",
    "folder_in_use": "另一进程正在使用该目录",
    "image_sizes_differ": "图像尺寸不一",
    "img_size_differs": "图像尺寸与 img_size 不符",
    "multi_label_loss": "多标签数据请用 BinaryCrossEntropyLoss",
    "no_such_setting": "没有该配置项",
    "nothing_to_evaluate": "该目录没有可评估的断点",
    "output_not_writable": "输出目录不可写",
    "settings_changed": "配置与断点不同：改回、换目录，或用该选项确认",
    "sharding_cpu": "CPU 上仅支持 sharding: 0 或 1",
    "stopped_saved": "已保存，用相同命令加 --resume auto 继续",
    # launch
    "port_taken": "端口不可用",
    "processes_apart": "进程间无法通信：检查 --master、防火墙与网卡地址",
    # modeling
    "class_weights_count": "类别权重数不符",
    # optim
    "nothing_trainable": "没有可训练的参数",
    "pattern_matches_nothing": "该模式未匹配到任何参数",
    # predict
    "image_list_empty": "列表为空，每行一个图片路径",
    "save_list_utf8": "请将列表存为 UTF-8",
    # tasks
    "needs_distilled_head": "蒸馏需要 DistilledHead",
    "teacher_class_names": "教师模型的类别与数据不一致",
    "teacher_classes": "教师与学生类别数不同",
    "teacher_input": "教师与学生输入不同",
    "teacher_normalization": "教师与学生的归一化不同",
    "teacher_normalization_unknown": "请确认教师模型使用相同的归一化",
    "teacher_weights": "请提供教师模型权重",
    "weights_count": "权重数不符",
    # utils
    "paddle_missing": "未安装 PaddlePaddle：CPU 执行 pip install paddlepaddle==3.3.1，GPU 见 docs/gpu.md",
    # weights
    "output_not_writable_disk": "无法写入输出目录，请检查磁盘空间",
    "written_by_newer": "该文件由更新版本的 passl_sot 写出，请升级",
}


def zh(key: str, **values: object) -> str:
    """The end of an English message: " / " and a line of `CHINESE` with its {placeholders} filled."""
    return " / " + CHINESE[key].format(**values)


def summary(kinds: Iterable[str], names: Iterable[str]) -> str:
    """The Chinese line below faults of these kinds, with names that may have been meant; "" for none."""
    text = "、".join(KINDS[kind] for kind in dict.fromkeys(kinds) if kind in KINDS)
    if not text:
        return ""
    meant = [f"'{name}'" for name in dict.fromkeys(names)][:3]
    if meant:
        text += f"；是否想写 {'、'.join(meant)}？"
    return f"（{text}）"
